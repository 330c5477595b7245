"""The backup function: its trigger is main.py."""

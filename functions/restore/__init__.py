"""The restore function: its trigger is main.py."""

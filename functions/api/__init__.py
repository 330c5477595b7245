"""The api function: its trigger is main.py."""

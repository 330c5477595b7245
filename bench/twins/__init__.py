"""Servers that the API is compared with, each as somebody would write it with that tool."""

"""Subcommands of ``rowdock``: each module adds its own parsers, which name the function to run."""

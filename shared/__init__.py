"""What the four functions share: vocabulary, rules and adapters; it imports no function."""

VERSION = "0.1.0"  # pyproject.toml's; an image holds the project's files, and no record of their installation

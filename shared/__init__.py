"""What the four functions share: vocabulary, rules and adapters; it imports no function."""

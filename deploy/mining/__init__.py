"""Mining: passages that look right and are wrong, for training to learn from."""

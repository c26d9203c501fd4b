"""From what the user names to the source model."""

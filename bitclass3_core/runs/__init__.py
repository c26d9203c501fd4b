"""A run: from a configuration to a measured file."""

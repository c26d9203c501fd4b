"""Several levels in one release, and its upload."""

"""Finding, loading, calling and checking plugins."""

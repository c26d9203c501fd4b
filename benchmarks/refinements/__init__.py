"""What would make the two vectors' allocation better, tried on a real language model: ``python -m benchmarks.refinements``."""

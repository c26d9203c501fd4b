"""Ours against llama.cpp's mixes on a real language model, size by size: ``python -m benchmarks.quality``."""

"""Moved to ``bitclass3_core.gguf.kernels``; this name stays for plugin API 1."""

from bitclass3_core.gguf.kernels import SPEED, Library, dequantize, find_library, is_valid, library, quantize

__all__ = ["SPEED", "Library", "dequantize", "find_library", "is_valid", "library", "quantize"]

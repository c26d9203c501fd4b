"""Moved to ``bitclass3_core.gguf.model``; this name stays for plugin API 1."""

from bitclass3_core.gguf.model import GgufModel, open_reader, quantized_share, split_files, split_name, total_file_bytes

__all__ = ["GgufModel", "open_reader", "quantized_share", "split_files", "split_name", "total_file_bytes"]

"""Moved to ``bitclass3_core.gguf.names``; this name stays for plugin API 1."""

from bitclass3_core.gguf.names import (
    allows_quantization,
    blocks_of,
    fragile_floors,
    hf_stems,
    metadata_int,
    quantizable_tensors,
    swapped_groups,
)

__all__ = [
    "allows_quantization",
    "blocks_of",
    "fragile_floors",
    "hf_stems",
    "metadata_int",
    "quantizable_tensors",
    "swapped_groups",
]

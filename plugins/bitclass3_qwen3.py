"""Qwen3: the conversion to GGUF leaves every row and column where it was."""

from bitclass3_core import hookimpl
from bitclass3_core.gguf.names import hf_stems, quantizable_tensors
from bitclass3_core.model import Architecture, Model

BITCLASS3_ANSWERS = "c4100ed2ca01"  # changes when the answers do


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names only: no floors, no permutations."""
    return Architecture("qwen3", quantizable_tensors(model), hf_stems=hf_stems(model))

"""Any architecture: names by llama.cpp's rule and gguf's tables; no permutations, because those cannot be guessed."""

from bitclass3_core import hookimpl
from bitclass3_core.gguf.names import fragile_floors, hf_stems, quantizable_tensors
from bitclass3_core.model import Architecture, Model

BITCLASS3_ANSWERS = "03f9a7a0dd42"  # changes when the answers do


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names and floors; rows and columns are assumed to be in HF's order."""
    quantizable = quantizable_tensors(model)
    return Architecture("generic", quantizable, fragile_floors(model, quantizable), hf_stems(model))

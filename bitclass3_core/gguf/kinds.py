"""GGUF files that are no language model: each kind is refused, and the message says what to give instead."""

from bitclass3_core.errors import ModelFileError
from bitclass3_core.model import Model

_KINDS = {
    "adapter": "a LoRA adapter; merge it into its base model and give that",
    "mmproj": "a multimodal projector; give the GGUF of the language model, and ship the projector beside the result as it is",
    "imatrix": "an importance matrix; give the model with --model, and this with --set estimate.options.path",
    "vocab": "a vocabulary without weights; give the GGUF with the weights",
}
_PROJECTORS = frozenset({"clip", "mmproj"})


def check_is_model(model: Model) -> None:
    """Raise ModelFileError if the GGUF is an adapter, a projector, an imatrix or a vocabulary."""
    kind = str(model.metadata.get("general.type", "model"))
    if model.arch in _PROJECTORS:
        kind = "mmproj"
    if kind in _KINDS:
        raise ModelFileError(f"{model.path} is {_KINDS[kind]}")
    if not any(info.block is not None for info in model.tensors.values()):
        raise ModelFileError(f"{model.path} has no layers (blk.0...); give the GGUF of a language model")

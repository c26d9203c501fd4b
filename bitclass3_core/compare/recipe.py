"""The types of any GGUF's tensors, and their text as a recipe."""

from collections.abc import Mapping
from pathlib import Path

from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.recipe import recipe_lines, types_in_gguf


def types_of(file: Path) -> dict[str, str]:
    """Types by tensor name of those tensors that llama-quantize chooses a type for; the others keep their source's type anyway.

    Raises ModelFileError for a file that is not there or has no such tensor.
    """
    if not file.is_file():
        raise ModelFileError(f"{file} does not exist; give a GGUF, or any file of a split one")
    qtypes = types_in_gguf(file)
    if not qtypes:
        raise ModelFileError(f"{file} has no tensor that llama-quantize would choose a type for; give the GGUF of a language model")
    return dict(sorted(qtypes.items()))


def recipe_text(types: Mapping[str, str]) -> str:
    """The types as lines of llama-quantize's ``--tensor-type-file``."""
    return "\n".join(recipe_lines(types))

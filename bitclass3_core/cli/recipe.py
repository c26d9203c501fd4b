"""``bitclass3 recipe``: the per-tensor types of any GGUF as lines for llama-quantize's ``--tensor-type-file``."""

import json
from pathlib import Path

from bitclass3_core.errors import ModelFileError
from bitclass3_core.files import write_text
from bitclass3_core.gguf.recipe import recipe_lines, types_in_gguf


def recipe_command(file: Path, out: Path | None, as_json: bool) -> None:
    """Print or write the recipe of the tensors that llama-quantize chooses a type for; the others keep their source's type anyway."""
    if not file.is_file():
        raise ModelFileError(f"{file} does not exist; give a GGUF, or any file of a split one")
    qtypes = types_in_gguf(file)
    if not qtypes:
        raise ModelFileError(f"{file} has no tensor that llama-quantize would choose a type for; give the GGUF of a language model")
    text = json.dumps(dict(sorted(qtypes.items())), indent=1) if as_json else "\n".join(recipe_lines(qtypes))
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n")

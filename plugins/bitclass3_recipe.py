"""The allocation for people who run llama-quantize themselves: a tensor-type file, and the exact command as a script."""

import os
import shlex
from pathlib import Path

from bitclass3_core import hookimpl
from bitclass3_core.files import write_text
from bitclass3_core.gguf.recipe import quantize_arguments, with_kept, write_recipe
from bitclass3_core.model import Model
from bitclass3_core.problem import Allocation

BITCLASS3_ANSWERS = "8897d1402854"  # changes when the answers do


@hookimpl
def bitclass3_export(model: Model, allocation: Allocation, out: Path, stem: str) -> list[Path]:
    """Write ``stem.tensor_types.txt`` and ``stem.llama-quantize.sh``, which runs in its own folder."""
    recipe = write_recipe(out, stem, with_kept(model, allocation.qtypes))
    source = os.path.relpath(model.path, out)
    imatrix = "imatrix.gguf" if (out / "imatrix.gguf").is_file() else None
    arguments = quantize_arguments(model, allocation.qtypes, source, recipe.name, imatrix, f"{stem}.gguf")
    script = out / f"{stem}.llama-quantize.sh"
    write_text(script, f'#!/bin/sh\ncd "$(dirname "$0")" && exec llama-quantize {shlex.join(arguments)}\n')
    script.chmod(0o755)
    return [recipe, script]

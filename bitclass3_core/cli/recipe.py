"""``bitclass3 recipe``: the per-tensor types of any GGUF as lines for llama-quantize's ``--tensor-type-file``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitclass3_core.cli.flags import Flags, with_flags
from bitclass3_core.cli.groups import OUTPUT


@with_flags(OUTPUT.only("json"))
def recipe(
    flags: Flags,
    file: Annotated[Path, typer.Argument(help="a GGUF, or any file of a split one", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: stdout")] = None,
) -> None:
    """Print the types of a GGUF's tensors, anyone's, as a recipe for llama-quantize --tensor-type-file."""
    from bitclass3_core.compare.files import recipe_text, types_of
    from bitclass3_core.files import write_text

    types = types_of(file)
    text = json.dumps(types, indent=1) if flags.json else recipe_text(types)
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n")

"""An allocation as text for stock llama.cpp: lines of a tensor-type file, and the llama-quantize command that goes with it."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bitclass3_core.files import write_text
from bitclass3_core.model import Model
from bitclass3_core.naming import allows_quantization
from bitclass3_core.qtypes import qtype

# The mix whose name stands in general.file_type for a file that is mostly of that type.
_FTYPE_OF = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


def nearest_ftype(model: Model, qtypes: Mapping[str, str]) -> str:
    """The stock mix named after the type that holds most of the weights.

    Among quantized types if there are any: with F16 or BF16 as the mix, llama-quantize ignores the tensor-type file.
    """
    weights: Counter[str] = Counter()
    for name, q in qtypes.items():
        weights[q] += model.tensors[name].n_params
    quantized = [q for q in sorted(weights) if not qtype(q).is_float]
    most = max(quantized or sorted(weights), key=lambda q: weights[q]) if weights else "F16"
    return _FTYPE_OF.get(most, most)


def with_kept(model: Model, qtypes: Mapping[str, str]) -> dict[str, str]:
    """``qtypes``, and the source's type for each tensor that llama-quantize would turn into F16 unasked, as its rows hold no block."""
    kept = {name: info.dtype for name, info in model.tensors.items() if name not in qtypes and allows_quantization(info)}
    return {**qtypes, **kept}


def recipe_lines(qtypes: Mapping[str, str]) -> list[str]:
    """Lines of ``--tensor-type-file``: llama-quantize searches each pattern as a regular expression, so they are anchored and escaped."""
    return [f"^{re.escape(name)}$={q.lower()}" for name, q in sorted(qtypes.items())]


def quantize_arguments(
    model: Model, qtypes: Mapping[str, str], source: str, recipe: str, imatrix: str | None, target: str, threads: int = 0
) -> list[str]:
    """Arguments of llama-quantize, program name left out. The imatrix's path is written into the file: give a relative one.

    token_embd and output take flags of their own, which win over the file.
    """
    arguments = ["--tensor-type-file", recipe]
    if imatrix:
        arguments += ["--imatrix", imatrix]
    for name, flag in ((EMBEDDING, "--token-embedding-type"), (OUTPUT, "--output-tensor-type")):
        if name in qtypes:
            arguments += [flag, qtypes[name].lower()]
    arguments += [source, target, nearest_ftype(model, qtypes)]
    return [*arguments, str(threads)] if threads else arguments


def recipe_name(stem: str) -> str:
    """File name of the tensor-type file of a candidate."""
    return f"{stem}.tensor_types.txt"


def write_recipe(out: Path, stem: str, qtypes: Mapping[str, str]) -> Path:
    """Write the tensor-type file of an allocation."""
    path = out / recipe_name(stem)
    write_text(path, "\n".join(recipe_lines(qtypes)) + "\n")
    return path

"""An allocation as text for stock llama.cpp: lines of a tensor-type file, and the llama-quantize command that goes with it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.files import write_text
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import allows_quantization
from bitclass3_core.model import Model
from bitclass3_core.qtypes import qtype

# The mix that general.file_type names for a file that is mostly of a type.
_FTYPE_OF = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


def nearest_ftype(model: Model, qtypes: Mapping[str, str]) -> str:
    """The stock mix that is named after the type of most weights.

    If there are quantized types, it is one of them: with F16 or BF16 as the mix, llama-quantize ignores the tensor-type file.
    """
    weights: Counter[str] = Counter()
    for name, q in qtypes.items():
        weights[q] += model.tensors[name].n_params
    quantized = [q for q in sorted(weights) if not qtype(q).is_float]
    most = max(quantized or sorted(weights), key=lambda q: weights[q]) if weights else "F16"
    return _FTYPE_OF.get(most, most)


def with_kept(model: Model, qtypes: Mapping[str, str]) -> dict[str, str]:
    """``qtypes``, and the source's type for tensors that llama-quantize would turn into F16, as no block fits their rows."""
    kept = {name: info.dtype for name, info in model.tensors.items() if name not in qtypes and allows_quantization(info)}
    return {**qtypes, **kept}


def recipe_lines(qtypes: Mapping[str, str]) -> list[str]:
    """Lines of ``--tensor-type-file``; llama-quantize searches each as a regular expression, so names are anchored and escaped."""
    return [f"^{re.escape(name)}$={q.lower()}" for name, q in sorted(qtypes.items())]


def types_in_gguf(path: Path) -> dict[str, str]:
    """The types in a GGUF (whole, or any file of a split) of the tensors that llama-quantize chooses a type for."""
    return {name: info.dtype for name, info in GgufModel(path).tensors.items() if allows_quantization(info)}


def types_in_recipe(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The types that a tensor-type file gives to ``names``, as llama-quantize reads it: the first pattern that is found counts.

    A tensor that no pattern matches is left out. Raises ModelFileError if it is no tensor-type file.
    """
    try:
        entries = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path} is no tensor-type file ({error}); give lines of pattern=type, or a .gguf") from None
    patterns = [_pattern(path, entry) for entry in entries]
    matched = ((name, next((q for pattern, q in patterns if pattern.search(name)), None)) for name in names)
    return {name: q for name, q in matched if q is not None}


def _pattern(path: Path, entry: str) -> tuple[re.Pattern[str], str]:
    """One entry of a tensor-type file; llama-quantize lower-cases its pattern."""
    pattern, equals, q = entry.partition("=")
    if not (pattern and equals and q):
        raise ModelFileError(f"{path}: {entry[:60]!r} is no pattern=type; give a tensor-type file of llama-quantize, or a .gguf")
    try:
        return re.compile(pattern.lower()), qtype(q).name
    except re.error as error:
        raise ModelFileError(f"{path}: {pattern[:60]!r} is no regular expression ({error}); escape dots as \\.") from None
    except ConfigError as error:
        raise ModelFileError(f"{path}: {error}") from None


def types_in_file(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Types by tensor name from a GGUF, or of ``names`` from a tensor-type file. Raises ModelFileError if it is neither."""
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist; give a .gguf or a tensor-type file to take types from")
    return types_in_gguf(path) if path.suffix.lower() == ".gguf" else types_in_recipe(path, names)


def quantize_arguments(
    model: Model, qtypes: Mapping[str, str], source: str, recipe: str, imatrix: str | None, target: str, threads: int = 0
) -> list[str]:
    """Arguments of llama-quantize, without the program's name. It writes the imatrix's path into the file: give a relative one.

    token_embd and output have flags of their own, which llama-quantize obeys before the file.
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

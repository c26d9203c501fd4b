"""Anyone's GGUFs: opened, named, and held against each other: only files of one model can be compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import allows_quantization
from bitclass3_core.gguf.recipe import recipe_lines, types_in_gguf
from bitclass3_core.model import Model
from bitclass3_core.plugin.checks import listed

_TOKENS = "tokenizer.ggml.tokens"


def opened(files: Sequence[Path]) -> dict[str, GgufModel]:
    """The files by a short name. Raises ConfigError for a file that is named twice, ModelFileError for one that is not there."""
    names = unique_names(files)
    if doubles := sorted(name for name, n in Counter(names).items() if n > 1):
        raise ConfigError(f"file {doubles[0]} is named twice; name each file once")
    for file in files:
        if not file.is_file():
            raise ModelFileError(f"{file} does not exist; give GGUF files, of a split one the first")
    return {name: GgufModel(file) for name, file in zip(names, files, strict=True)}


def check_comparable(reference: Model, other: Model) -> None:
    """Raise ModelFileError, naming what differs, unless both have one architecture, vocabulary, and set of matrices with their shapes."""
    found = f"its architecture is {other.arch!r}, not {reference.arch!r}" if other.arch != reference.arch else ""
    if found := found or _other_vocabulary(reference, other) or _other_tensors(reference, other):
        raise ModelFileError(
            f"{other.path.name} cannot be compared with {reference.path.name}: {found}; compare files of one model"
        )


def _tokens(model: Model) -> list[bytes]:
    field = model.fields.get(_TOKENS)
    return [] if field is None else [bytes(field.parts[index]) for index in field.data]


def _other_vocabulary(reference: Model, other: Model) -> str:
    ours, theirs = _tokens(reference), _tokens(other)
    if len(ours) != len(theirs):
        return f"its vocabulary has {len(theirs):,} tokens, not {len(ours):,}"
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    if first is None:
        return ""
    a, b = (token[first].decode("utf-8", "replace") for token in (ours, theirs))
    return f"token {first} of its vocabulary is {b!r}, not {a!r}"


def _other_tensors(reference: Model, other: Model) -> str:
    """Vectors may come and go (rope factors, biases of zero): the matrices must be the same."""
    ours, theirs = (
        {name: info.shape for name, info in model.tensors.items() if allows_quantization(info)} for model in (reference, other)
    )
    shapes = [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours.keys() & theirs if ours[name] != theirs[name]]
    parts = (("it lacks ", ours.keys() - theirs), ("it has ", theirs.keys() - ours), ("shape of ", shapes))
    return "; ".join(f"{what}{listed(names)}" for what, names in parts if names)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each file: its own without ending and split number, the folder's before it where two would be alike."""
    names = [path.name.removesuffix(".gguf").split("-00001-of-")[0] for path in paths]
    return [
        f"{path.resolve().parent.name}/{name}" if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]


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

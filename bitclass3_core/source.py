"""From what the user names to the source model: a GGUF, an HF folder beside it, or a folder that holds both."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from bitclass3_core.config import ModelSection
from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.files import digest_of
from bitclass3_core.gguf_model import GgufModel, quantized_share


def _gguf_in(folder: Path) -> Path:
    """The one GGUF in an HF folder (the first file of a split). Raises ModelFileError if there is none, or several."""
    found = sorted(path for path in folder.glob("*.gguf") if "-of-" not in path.name or "-00001-of-" in path.name)
    if not found:
        raise ModelFileError(
            f"{folder} has no GGUF in it; convert it with llama.cpp's convert_hf_to_gguf.py --outtype bf16 and name the file with --gguf"
        )
    if len(found) > 1:
        raise ConfigError(
            f"{folder} has {len(found)} GGUF files ({', '.join(path.name for path in found[:3])}); name one with --gguf"
        )
    return found[0]


def open_source(section: ModelSection, warn: Callable[[str], None]) -> GgufModel:
    """The source model. Raises ConfigError if none is named, ModelFileError for an unusable or an already quantized one."""
    if section.hf is None and section.gguf is None:
        raise ConfigError("no model; give --model with an HF folder or a BF16 GGUF")
    if section.hf is not None and not section.hf.is_dir():
        raise ModelFileError(f"{section.hf} is no folder; give --model with an HF folder on this disk or a GGUF file")
    model = GgufModel(section.gguf or _gguf_in(section.hf or Path()), section.hf)
    if not model.arch:
        raise ModelFileError(f"{model.path} does not name its architecture; convert the model again")
    share = quantized_share(model)
    if share > 0:
        line = f"{model.path.name} is already quantized ({share:.0%} of its weights): what is measured against it means little"
        if not section.allow_quantized_source:
            raise ModelFileError(f"{line}; give the BF16 GGUF, or go on with --allow-quantized-source")
        warn(line)
    return model


def source_fingerprint(model: GgufModel) -> str:
    """Fingerprint of the GGUF and of the HF folder's config and weight files (names, sizes, headers)."""
    parts = {"gguf": model.fingerprint}
    if model.hf is not None:
        for path in sorted(model.hf.glob("*.safetensors")) + sorted(model.hf.glob("*.json")):
            with path.open("rb") as file:
                head = file.read(1 << 16)
            parts[path.name] = f"{path.stat().st_size} {hashlib.sha256(head).hexdigest()}"
    return digest_of(parts)

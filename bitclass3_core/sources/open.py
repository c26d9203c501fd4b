"""The source model that the user names: a GGUF, an HF folder that has one or is converted, or a name on the hub."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.files import digest_of
from bitclass3_core.gguf.kinds import check_is_model
from bitclass3_core.gguf.model import GgufModel, quantized_share
from bitclass3_core.progress import Progress
from bitclass3_core.run_config import ModelSection
from bitclass3_core.sources.hub import download, is_hub_name
from bitclass3_core.toolchain.converting import converted, hf_files


def _gguf_in(folder: Path) -> Path | None:
    """The only GGUF in an HF folder (the first file of a split); None if there is none. Raises ConfigError if there are several."""
    found = sorted(path for path in folder.glob("*.gguf") if "-of-" not in path.name or "-00001-of-" in path.name)
    found = [path for path in found if not path.name.startswith("mmproj")]
    if len(found) > 1:
        raise ConfigError(
            f"{folder} has {len(found)} GGUF files ({', '.join(path.name for path in found[:3])}); name one with --gguf"
        )
    return found[0] if found else None


def _folder(section: ModelSection, progress: Progress) -> Path | None:
    """The HF folder, downloaded if it is a name on the hub."""
    hf = section.hf
    if hf is None or hf.is_dir():
        return hf
    if is_hub_name(str(hf)):
        return download(str(hf), progress)
    raise ModelFileError(f"{hf} is no folder; give --model with an HF folder, a name on the hub (org/model) or a GGUF file")


def open_source(section: ModelSection, warn: Callable[[str], None], progress: Progress, may_convert: bool = True) -> GgufModel:
    """The source model. llama.cpp's converter converts an HF folder without a GGUF, once for each content of the folder.

    Raises ConfigError if no model is named, ModelFileError if it is unusable or already quantized, ToolchainError if it must be
    converted and llama.cpp is missing.
    """
    if section.hf is None and section.gguf is None:
        raise ConfigError("no model; give --model with an HF folder or a BF16 GGUF")
    hf = _folder(section, progress)
    path = section.gguf or (_gguf_in(hf) if hf else None)
    if path is None and hf is not None:
        path = _converted(section, hf, progress, may_convert)
    model = GgufModel(path or Path(), hf, name=section.hf.name if hf != section.hf and section.hf else None)
    if not model.arch:
        raise ModelFileError(f"{model.path} does not name its architecture; convert the model again")
    check_is_model(model)
    share = quantized_share(model)
    if share > 0:
        line = f"{model.path.name} is already quantized ({share:.0%} of its weights): what is measured against it means little"
        if not section.allow_quantized_source:
            raise ModelFileError(f"{line}; give the BF16 GGUF, or go on with --allow-quantized-source")
        warn(line)
    return model


def _converted(section: ModelSection, hf: Path, progress: Progress, may_convert: bool) -> Path:
    hf_files(hf)
    if not may_convert:
        raise ModelFileError(f"{hf} has no GGUF in it yet; `bitclass3 run` converts it, or name one with --gguf")
    return converted(hf, progress, section.pre_tokenizer)


def source_fingerprint(model: GgufModel) -> str:
    """Fingerprint of the GGUF and of the HF folder's config and weight files (names, sizes, headers)."""
    parts = {"gguf": model.fingerprint}
    if model.hf is not None:
        for path in sorted(model.hf.glob("*.safetensors")) + sorted(model.hf.glob("*.json")):
            with path.open("rb") as file:
                head = file.read(1 << 16)
            parts[path.name] = f"{path.stat().st_size} {hashlib.sha256(head).hexdigest()}"
    return digest_of(parts)

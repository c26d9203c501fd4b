"""Downloads a model by its name on the Hugging Face hub: safetensors, configs and tokenizers, but no code."""

import re
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error, ModelFileError, ToolchainError
from bitclass3_core.progress import Progress

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "tokenizer.model",
    "*.jinja",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
    "README.md",
]


def is_hub_name(text: str) -> bool:
    """Whether a text can be a model's name on the hub (``Qwen/Qwen3.5-0.8B``) and is no path on this disk."""
    return bool(_NAME.fullmatch(text)) and not text.startswith(".") and not Path(text).exists()


def download(name: str, progress: Progress) -> Path:
    """The folder with the model's files, downloaded unless they are in huggingface_hub's cache.

    Raises ModelFileError if there is no such model or it may not be read, ToolchainError without huggingface_hub, and Bitclass3Error
    if the download fails.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ToolchainError(
            f"{name} is no folder here, and a download needs huggingface_hub; pip install 'bitclass3[torch]'"
        ) from None
    progress.say(f"source: {name} from the Hugging Face hub")
    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except Exception as error:  # huggingface_hub passes on every error of its HTTP client
        raise _as_error(name, error) from error


def _as_error(name: str, error: Exception) -> Bitclass3Error:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return ModelFileError(f"{name} is gated; accept its terms on the hub and log in with `hf auth login`")
    if "RepositoryNotFoundError" in kinds:
        return ModelFileError(
            f"{name} is no folder here and no model on the hub (or a private one); check the name, or `hf auth login`"
        )
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Bitclass3Error(
        f"{name} is no folder here and could not be downloaded ({line[:160]}); check the network, or give a folder on this disk"
    )

"""Converts an HF folder to a BF16 GGUF by llama.cpp's own converter; the cache keeps it under a hash of the folder's content."""

import importlib.util
import re
import sys
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error, ModelFileError, ToolchainError
from bitclass3_core.files import atomic_path, digest_of, human_bytes, require_room
from bitclass3_core.gguf.guard import check_gguf
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain import convert_runner
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.places import CONVERTER, cache_folder, content_hash, locked
from bitclass3_core.toolchain.running import ProgramFailed, last_lines, run_program

_READ = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja", "*.txt", "*.tiktoken", "merges.txt")
_UNKNOWN_TOKENIZER = "BPE pre-tokenizer was not recognized"
_NOT_SUPPORTED = re.compile(r"(?:ERROR:[\w.-]*:)?Model (\S+) is not supported")
_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
_NEEDS = ("torch", "transformers", "safetensors")


def hf_files(hf: Path) -> list[Path]:
    """The files of an HF folder that the converter may read. Raises ModelFileError if it has no config or no safetensors."""
    if not (hf / "config.json").is_file():
        raise ModelFileError(
            f"{hf} is no HF model folder (no config.json); give the folder with config.json and *.safetensors in it"
        )
    found = sorted({path for pattern in _READ for path in hf.glob(pattern) if path.is_file()})
    if not any(path.suffix == ".safetensors" for path in found):
        other = ", ".join(sorted(path.name for path in (*hf.glob("*.bin"), *hf.glob("*.pt"), *hf.glob("*.pth")))[:2])
        has = f" (it has {other}: pickled weights run code and are not loaded)" if other else ""
        raise ModelFileError(f"{hf} has no *.safetensors{has}; save the model with save_pretrained(safe_serialization=True)")
    return found


def convert(
    hf: Path, out: Path, progress: Progress, outtype: str = "bf16", pre_tokenizer: str | None = None, llama_cpp: Path | None = None
) -> Path:
    """Convert an HF folder to the GGUF ``out``, which appears when it is complete.

    Raises ModelFileError if the converter cannot convert the folder, ToolchainError if the converter or a package that it needs is
    missing.
    """
    files = hf_files(hf)
    converter = find_program(CONVERTER, llama_cpp).path
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise ToolchainError(f"the converter needs {', '.join(missing)}; pip install 'bitclass3[torch]'")
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    require_room(out.parent, weights, out.name)
    progress.say(f"source: {converter} converts {hf} ({human_bytes(weights)}) to {outtype}")
    with atomic_path(out) as temporary:
        command = [sys.executable, str(Path(convert_runner.__file__)), str(converter), pre_tokenizer or "", str(hf.absolute())]
        try:
            output = run_program([*command, "--outtype", outtype, "--outfile", str(temporary)], environment={"PYTHONUTF8": "1"})
        except ProgramFailed as error:
            raise _as_error(error, hf) from None
        if not temporary.is_file():
            raise ToolchainError(f"the converter wrote no file for {hf}; its last lines: {last_lines(output)}")
        check_gguf(temporary)
    for line in output.splitlines():
        if line.startswith("bitclass3: "):
            progress.warn(line.removeprefix("bitclass3: ") + "; name another with --pre-tokenizer if that is wrong")
    return out


def _as_error(error: ProgramFailed, hf: Path) -> Bitclass3Error:
    if _UNKNOWN_TOKENIZER in error.output:
        return ModelFileError(
            f"the tokenizer of {hf} is unknown to llama.cpp's converter; name one that splits text alike with --pre-tokenizer"
            " (gpt-2, llama-bpe, qwen2), or use a newer llama.cpp"
        )
    if found := _NOT_SUPPORTED.search(error.output):
        return ModelFileError(f"llama.cpp's converter does not support {found[1]} ({hf}); use a newer llama.cpp")
    if found := _MISSING_MODULE.search(error.output):
        return ToolchainError(f"the converter needs the Python package {found[1]} for {hf}; pip install {found[1].split('.')[0]}")
    return ModelFileError(f"{hf} could not be converted; the converter's last lines: {last_lines(error.output, 3)}")


def converted(hf: Path, progress: Progress, pre_tokenizer: str | None = None, llama_cpp: Path | None = None) -> Path:
    """The BF16 GGUF of an HF folder; from the cache if this converter converted the same content before."""
    converter = find_program(CONVERTER, llama_cpp).path
    parts = {path.name: content_hash(path) for path in hf_files(hf)}
    parts |= {"converter": content_hash(converter), "pre_tokenizer": pre_tokenizer or ""}
    folder = cache_folder() / "converted" / digest_of(parts)[:24]
    out = folder / f"{hf.resolve().name}-BF16.gguf"
    with locked(folder.with_suffix(".lock"), progress):
        if out.is_file():
            progress.say(f"source: {out} was converted before")
            return out
        return convert(hf, out, progress, "bf16", pre_tokenizer, llama_cpp)

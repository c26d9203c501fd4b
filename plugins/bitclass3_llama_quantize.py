"""The exporter that runs stock llama-quantize, and believes only what it reads back from the file."""

import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import ToolchainError
from bitclass3_core.files import atomic_path, require_room
from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.layout import file_bytes
from bitclass3_core.model import Model
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.recipes import quantize_arguments, write_recipe
from bitclass3_core.toolchain.finding import find_program

PROGRAM = "llama-quantize"


class Options(BaseModel):
    """Which llama.cpp, and how it runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    threads: int = Field(0, ge=0, description="0: llama-quantize's default")


def _find(llama_cpp: Path | None) -> Path:
    """llama-quantize. Raises ToolchainError if it is nowhere."""
    try:
        return find_program(PROGRAM, llama_cpp).path
    except ToolchainError as error:
        raise ToolchainError(f"{error}; --plugin gguf needs no llama.cpp") from None


def _run(command: list[str], folder: Path) -> None:
    """Run llama-quantize; raises ToolchainError with its last lines if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be run ({error.strerror}); build llama.cpp for this machine") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ToolchainError(f"{PROGRAM} failed with exit code {done.returncode}; its last lines: {' | '.join(lines[-4:])}")


def _check_written(path: Path, allocation: Allocation) -> None:
    """Raise ToolchainError unless every tensor of the file has the type that was asked for."""
    written = GgufModel(path).tensors
    wrong = [
        f"{name} is {written[name].dtype}, asked {q}"
        for name, q in allocation.qtypes.items()
        if name in written and written[name].dtype != q
    ]
    wrong += [f"{name} is missing" for name in allocation.qtypes if name not in written]
    if wrong:
        raise ToolchainError(f"{PROGRAM} wrote other types than asked in {len(wrong)} tensors: {'; '.join(wrong[:3])}")


@hookimpl
def bitclass3_export(
    model: Model, allocation: Allocation, out: Path, stem: str, options: Options, progress: Progress
) -> list[Path]:
    """Write ``out/stem.gguf`` with llama-quantize, and the tensor-type file that made it."""
    program = _find(options.llama_cpp)
    recipe = write_recipe(out, stem, allocation.qtypes)
    path = out / f"{stem}.gguf"
    require_room(out, file_bytes(model, allocation.qtypes), path.name)
    imatrix = "imatrix.gguf" if (out / "imatrix.gguf").is_file() else None
    progress.say(f"export: {program} writes {path.name}")
    with atomic_path(path) as temporary:
        source = os.path.relpath(model.path, out)
        arguments = quantize_arguments(model, allocation.qtypes, source, recipe.name, imatrix, temporary.name, options.threads)
        _run([str(program), *arguments], out)
        _check_written(temporary, allocation)
    return [path, recipe]

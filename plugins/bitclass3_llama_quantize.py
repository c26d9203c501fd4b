"""The exporter that runs stock llama-quantize, and checks the types in the file that it wrote."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import Bitclass3Error, ToolchainError, UnusableTypeError
from bitclass3_core.files import atomic_path, require_room
from bitclass3_core.gguf.model import GgufModel, quantized_share, split_name
from bitclass3_core.gguf.recipe import quantize_arguments, with_kept, write_recipe
from bitclass3_core.layout import file_bytes
from bitclass3_core.model import Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import ProgramFailed, Steps, last_lines, run_program

BITCLASS3_ANSWERS = "0ceb679c262c"  # changes when the answers do

PROGRAM = "llama-quantize"
_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- ")
_CONVERTING = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- [^\n]*converting to (\w+)")
# What llama-quantize and ggml print if the weights of one tensor are the reason: a NaN in a block, a kernel's assertion.
_TENSORS_FAULT = re.compile(r"validation failed|found nan|found inf|GGML_ASSERT|Missing importance matrix", re.IGNORECASE)


class Options(PluginOptions):
    """The llama.cpp to use, and how it runs."""

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    threads: int = Field(0, ge=0, description="0: llama-quantize's default")
    keep_split: bool = Field(False, description="write as many files as the source has")


def _find(llama_cpp: Path | None) -> Path:
    """llama-quantize. Raises ToolchainError if it is nowhere."""
    try:
        return find_program(PROGRAM, llama_cpp).path
    except ToolchainError as error:
        raise ToolchainError(f"{error}; --plugin gguf needs no llama.cpp") from None


def _run(command: list[str], folder: Path, model: Model, progress: Progress) -> str:
    """Run llama-quantize; returns its output. Raises UnusableTypeError if one tensor is the reason why it fails."""
    progress.begin(f"export {command[-1]}", len(model.tensors))
    try:
        return run_program(command, folder, Steps(_TENSOR.pattern, progress.advance))
    except ProgramFailed as error:
        if "iostream error" in error.output:  # what C++ says when a write fails
            raise Bitclass3Error(f"no room on disk to write {command[-2]} into {folder}; free some and run again") from None
        at = list(_CONVERTING.finditer(error.output))
        if at and _TENSORS_FAULT.search(error.output, at[-1].start()):
            reason = f"{PROGRAM} fails on it ({last_lines(error.output[at[-1].end() :], 2)})"
            raise UnusableTypeError(at[-1][1], at[-1][2].upper(), reason) from None
        where = f" at {at[-1][1]} ({at[-1][2]})" if at else ""
        raise ToolchainError(f"{error}{where}; nothing of it is kept") from None
    finally:
        progress.end()


def _check_written(path: Path, allocation: Allocation, output: str) -> None:
    """Raise ToolchainError unless every tensor of the file has the type that was asked for."""
    if not path.is_file():
        raise ToolchainError(f"{PROGRAM} wrote no {path.name}; its last lines: {last_lines(output)}")
    written = GgufModel(path).tensors
    found = {name: written[name].dtype for name in allocation.qtypes if name in written}
    wrong = [
        f"{name} is {dtype}, asked {allocation.qtypes[name]}" for name, dtype in found.items() if dtype != allocation.qtypes[name]
    ]
    wrong += [f"{name} is missing" for name in allocation.qtypes if name not in written]
    if wrong:
        raise ToolchainError(f"{PROGRAM} wrote other types than asked in {len(wrong)} tensors: {'; '.join(wrong[:3])}")


@contextmanager
def _split_paths(out: Path, stem: str, n_files: int) -> Iterator[tuple[str, list[Path]]]:
    """(prefix to write under, temporary files): they take their final names at the end of the block, the first one last."""
    prefix = f".{stem}.{os.getpid()}.part"
    temporary = [out / split_name(prefix, number, n_files) for number in range(1, n_files + 1)]
    try:
        yield prefix, temporary
        for number, path in reversed(list(enumerate(temporary, 1))):
            path.replace(out / split_name(stem, number, n_files))
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _arguments(model: Model, allocation: Allocation, out: Path, recipe: str, target: str, options: Options) -> list[str]:
    imatrix = "imatrix.gguf" if (out / "imatrix.gguf").is_file() else None
    source = os.path.relpath(model.path, out)
    again = ["--allow-requantize"] if quantized_share(model) > 0 else []
    return [*again, *quantize_arguments(model, allocation.qtypes, source, recipe, imatrix, target, options.threads)]


@hookimpl
def bitclass3_export(
    model: Model, allocation: Allocation, out: Path, stem: str, options: Options, progress: Progress
) -> list[Path]:
    """Write ``out/stem.gguf`` (with ``keep_split`` as many files as the source has) with llama-quantize, and its tensor-type file.

    Raises UnusableTypeError if a tensor cannot have its type, ToolchainError for any other failure.
    """
    program = _find(options.llama_cpp)
    recipe = write_recipe(out, stem, with_kept(model, allocation.qtypes))
    require_room(out, file_bytes(model, allocation.qtypes), f"{stem}.gguf")
    progress.say(f"export: {program} writes {stem}.gguf")
    n_files = len(GgufModel(model.path).files) if options.keep_split else 1
    if n_files > 1:
        with _split_paths(out, stem, n_files) as (prefix, temporary):
            arguments = ["--keep-split", *_arguments(model, allocation, out, recipe.name, f"{prefix}.gguf", options)]
            output = _run([str(program), *arguments], out, model, progress)
            _check_written(temporary[0], allocation, output)
        return [*(out / split_name(stem, number, n_files) for number in range(1, n_files + 1)), recipe]
    path = out / f"{stem}.gguf"
    with atomic_path(path) as temporary_file:
        arguments = _arguments(model, allocation, out, recipe.name, temporary_file.name, options)
        output = _run([str(program), *arguments], out, model, progress)
        _check_written(temporary_file, allocation, output)
    return [path, recipe]

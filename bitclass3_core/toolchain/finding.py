"""Finds the programs of llama.cpp: in a given folder, in ``$LLAMA_CPP_DIR``, on PATH, in the managed toolchain, in this order."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from bitclass3_core.errors import ToolchainError
from bitclass3_core.machine import llama_cpp_folder
from bitclass3_core.toolchain.places import CONVERTER, installed, managed_folder
from bitclass3_core.toolchain.running import captured

Origin = Literal["option", "LLAMA_CPP_DIR", "PATH", "managed"]

PROGRAMS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-completion", CONVERTER)
STAND_INS = {"llama-completion": "llama-cli", "llama-cli": "llama-completion"}  # a release has one of the two
# release archives, installed trees, builds, an unpacked Docker image
_PLACES = ("", "bin", "build/bin", "build/bin/Release", "app")
_ABOVE = ("..", "../..")  # if build/bin is given, the converter is at the root of the source
_NO_VERSION = ("llama-quantize", CONVERTER)
_VERSION_SECONDS = 20  # a GPU build initialises its devices first


@dataclass(frozen=True, slots=True)
class Program:
    """A program of llama.cpp, and how it was found."""

    name: str  # of the file; may be the stand-in of the program that was asked for
    path: Path
    origin: Origin

    @property
    def version(self) -> str | None:
        """What ``--version`` prints; None if the program has no version or cannot be run."""
        return None if self.name in _NO_VERSION else _ask_version(self.path)


@cache
def _ask_version(path: Path) -> str | None:
    try:
        done = captured([str(path), "--version"], _VERSION_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^version: *(.+)$", done.stderr + "\n" + done.stdout, re.MULTILINE)
    return found[1].strip() if found else None


def _at(name: str, folder: Path) -> Path | None:
    """The program directly in that folder. The converter need not be executable, as Python runs it."""
    if name == CONVERTER:
        return folder / name if (folder / name).is_file() else None
    found = shutil.which(name, path=str(folder))
    return Path(found) if found else None


def _below(name: str, folder: Path) -> Path | None:
    """The program in that folder or in one of the subfolders that a folder of llama.cpp can have."""
    places = _PLACES + (_ABOVE if name == CONVERTER else ())
    found = (_at(name, folder / place) for place in places)
    return next((path for path in found if path), None)


def _on_path(name: str) -> Path | None:
    folders = [Path(entry) for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry]
    return next((path for path in (_at(name, folder) for folder in folders) if path), None)


def _managed(name: str) -> Path | None:
    return next((path for path in (toolchain.file(name) for toolchain in installed()) if path), None)


def _candidates(names: tuple[str, ...], folder: Path | None) -> Iterator[tuple[str, Path | None, Origin]]:
    """Each name at each place, in the order in which they count: the place before the name."""
    environment = llama_cpp_folder()
    if folder:
        yield from ((name, _below(name, folder), "option") for name in names)
    if environment:
        yield from ((name, _below(name, environment), "LLAMA_CPP_DIR") for name in names)
    yield from ((name, _on_path(name), "PATH") for name in names)
    yield from ((name, _managed(name), "managed") for name in names)


def find_program(name: str, folder: Path | None = None) -> Program:
    """The program, or its stand-in if a place has only that. Raises ToolchainError if it is nowhere."""
    names = (name, STAND_INS[name]) if name in STAND_INS else (name,)
    for candidate, path, origin in _candidates(names, folder):
        if path:
            # Absolute, as it runs in other folders. A link to the converter is resolved: its modules lie beside the file itself.
            return Program(candidate, path.resolve() if candidate == CONVERTER else path.absolute(), origin)
    looked = [_describe(folder, "option")] if folder else []
    if environment := llama_cpp_folder():
        looked.append(_describe(environment, "LLAMA_CPP_DIR"))
    looked += ["PATH", f"{managed_folder()} (managed)"]
    raise ToolchainError(
        f"{' or '.join(names)} was not found; looked in {', '.join(looked)}; "
        "run `bitclass3 toolchain install`, or set LLAMA_CPP_DIR to a folder of llama.cpp that has it"
    )


def _describe(folder: Path, origin: Origin) -> str:
    """The folder in a message, with the programs that it has: many packages of llama.cpp lack some."""
    if not folder.is_dir():
        return f"{folder} ({origin}, no such folder)"
    has = [name for name in (*PROGRAMS, "llama-cli") if _below(name, folder)]
    return f"{folder} ({origin}, has {', '.join(has) or 'none of the programs'})"


def find_all(folder: Path | None = None) -> dict[str, Program | ToolchainError]:
    """Every program that bitclass3 uses: where it was found, or the error that it was not."""
    found: dict[str, Program | ToolchainError] = {}
    for name in PROGRAMS:
        try:
            found[name] = find_program(name, folder)
        except ToolchainError as error:
            found[name] = error
    return found

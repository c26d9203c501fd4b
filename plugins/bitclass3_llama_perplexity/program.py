"""Runs llama-perplexity: a model and arguments in, its output out."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitclass3_core.errors import ToolchainError
from bitclass3_core.files import sha256_file
from bitclass3_core.model import Model
from bitclass3_core.toolchain.finding import Program, find_program
from bitclass3_core.toolchain.running import Listener, ProgramFailed, run_program

NAME = "llama-perplexity"
_UNKNOWN_ARCHITECTURE = re.compile(r"unknown model architecture: '([^']*)'")
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}  # else a crash starts gdb, whose output hides the program's last lines


def find(llama_cpp: Path | None) -> Program:
    """llama-perplexity. Raises ToolchainError if it is nowhere."""
    try:
        return find_program(NAME, llama_cpp)
    except ToolchainError as error:
        raise ToolchainError(f"{error}; --plugin torch needs no llama.cpp") from None


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The program, with the arguments of all its runs."""

    program: Program
    arguments: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and version, for tables and fingerprints."""
        return f"{NAME} {self.program.version or ''}".strip()

    @property
    def identity(self) -> dict[str, Any]:
        """All that its answers depend on: the program and how it is run."""
        path = self.program.path
        return {"program": str(path), "version": self.program.version, "sha256": sha256_file(path), "arguments": self.arguments}

    def run(self, model: Model, arguments: list[str], folder: Path, listener: Listener | None = None) -> str:
        """Run it in ``folder`` on a model; returns all that it printed. Raises ToolchainError, which says why, if it fails."""
        command = [str(self.program.path), "-m", str(model.path.resolve()), *self.arguments, *arguments]
        try:
            return run_program(command, folder, listener, _ENVIRONMENT)
        except ProgramFailed as error:
            if unknown := _UNKNOWN_ARCHITECTURE.search(error.output):
                raise ToolchainError(
                    f"this {NAME} does not know the architecture {unknown[1]!r} of {model.path.name}: its llama.cpp is too old; "
                    "update it, or evaluate with --plugin torch"
                ) from None
            raise

"""``bitclass3 toolchain``: building the managed llama.cpp, and which programs are found where."""

import json
from pathlib import Path
from typing import Any

from bitclass3_core.errors import ToolchainError
from bitclass3_core.progress import terminal_progress
from bitclass3_core.toolchain.finding import Program, find_all, find_program
from bitclass3_core.toolchain.installing import install, make_order
from bitclass3_core.toolchain.places import Toolchain, installed, managed_folder
from bitclass3_core.toolchain.release import DEFAULT_VERSION


def _toolchain_row(toolchain: Toolchain) -> dict[str, Any]:
    return {"folder": str(toolchain.folder), **toolchain.facts()}


def _program_row(found: Program | ToolchainError) -> dict[str, Any]:
    if isinstance(found, ToolchainError):
        return {"path": None, "error": str(found)}
    return {"path": str(found.path), "name": found.name, "origin": found.origin, "version": found.version}


def install_command(
    version: str | None, backend: str, programs: list[str], jobs: int, force: bool, as_json: bool, quiet: bool
) -> None:
    """Install, and print the folder."""
    names = tuple(name for given in programs for name in given.replace(",", " ").split())
    order = make_order(version or DEFAULT_VERSION, backend, names, jobs)
    toolchain = install(order, terminal_progress(quiet), force)
    print(json.dumps(_toolchain_row(toolchain), indent=1) if as_json else toolchain.folder)


def path_command(program: str | None, llama_cpp: Path | None) -> None:
    """Print a path. Raises ToolchainError if there is none."""
    if program:
        print(find_program(program, llama_cpp).path)
    elif llama_cpp:
        print(llama_cpp.absolute())
    elif managed := installed():
        print(managed[0].folder)
    else:
        raise ToolchainError(f"no llama.cpp is installed in {managed_folder()}; run `bitclass3 toolchain install`")


def list_command(llama_cpp: Path | None, as_json: bool) -> None:
    """Print the managed builds, the latest first, and every program."""
    toolchains, programs = installed(), find_all(llama_cpp)
    if as_json:
        rows = {"installed": [_toolchain_row(one) for one in toolchains]}
        print(json.dumps({**rows, "programs": {name: _program_row(found) for name, found in programs.items()}}, indent=1))
        return
    for one in toolchains:
        print(f"installed  {one.version}-{one.backend}: ggml {one.ggml_version}, {one.compiler} ({one.folder})")
    if not toolchains:
        print(f"installed  none in {managed_folder()}")
    for name, found in programs.items():
        if isinstance(found, ToolchainError):
            print(f"missing    {name}: {found}")
        else:
            version = f", {found.version}" if found.version else ""
            print(f"found      {name}: {found.path} ({found.origin}{version})")

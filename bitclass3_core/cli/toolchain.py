"""``bitclass3 toolchain``: building the managed llama.cpp, and which programs are found where."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitclass3_core.cli.flags import Flags, with_flags
from bitclass3_core.cli.groups import OUTPUT, RUN
from bitclass3_core.errors import ToolchainError
from bitclass3_core.progress import terminal_progress

if TYPE_CHECKING:
    from bitclass3_core.toolchain.finding import Program
    from bitclass3_core.toolchain.places import Toolchain

app = typer.Typer(no_args_is_help=True, help="Stock llama.cpp: build a pinned one, or say which programs are found.")
_LLAMA_CPP = ("llama_cpp",)


@app.command()
@with_flags(OUTPUT.only("json", "quiet"))
def install(
    flags: Flags,
    version: Annotated[str | None, typer.Option(help="pinned source release; default: the latest")] = None,
    backend: Annotated[str, typer.Option(help="cpu, cuda, vulkan, metal, hip, sycl")] = "cpu",
    jobs: Annotated[int, typer.Option(min=0, help="compilers at a time; 0: as many as cores and memory allow")] = 0,
    programs: Annotated[list[str] | None, typer.Option(help="program to build instead of the usual ones; repeatable")] = None,
    force: Annotated[bool, typer.Option("--force", help="build again what is installed")] = False,
) -> None:
    """Build a pinned llama.cpp in the user's cache folder: six to ten minutes on two cores; needs cmake and a C++ compiler."""
    from bitclass3_core.toolchain import installing
    from bitclass3_core.toolchain.release import DEFAULT_VERSION

    names = tuple(name for given in programs or () for name in given.replace(",", " ").split())
    order = installing.make_order(version or DEFAULT_VERSION, backend, names, jobs)
    toolchain = installing.install(order, terminal_progress(flags.quiet), force)
    print(json.dumps(_toolchain_row(toolchain), indent=1) if flags.json else toolchain.folder)


@app.command()
@with_flags(RUN.only("llama_cpp"))
def path(
    flags: Flags,
    program: Annotated[
        str | None, typer.Argument(help="llama-quantize, ...; default: the managed folder", show_default=False)
    ] = None,
) -> None:
    """Print the path of a program as it would be found, or of the managed llama.cpp; exit code 1 if there is none."""
    from bitclass3_core.toolchain.finding import find_program
    from bitclass3_core.toolchain.places import installed, managed_folder

    llama_cpp: Path | None = flags.keys.get(_LLAMA_CPP)
    if program:
        print(find_program(program, llama_cpp).path)
    elif llama_cpp:
        print(llama_cpp.absolute())
    elif managed := installed():
        print(managed[0].folder)
    else:
        raise ToolchainError(f"no llama.cpp is installed in {managed_folder()}; run `bitclass3 toolchain install`")


@app.command("list")
@with_flags(RUN.only("llama_cpp"), OUTPUT.only("json"))
def list_programs(flags: Flags) -> None:
    """List the managed llama.cpp builds, and for every program which one would be used."""
    from bitclass3_core.toolchain.finding import find_all
    from bitclass3_core.toolchain.places import installed

    toolchains, programs = installed(), find_all(flags.keys.get(_LLAMA_CPP))
    if flags.json:
        rows = {"installed": [_toolchain_row(one) for one in toolchains]}
        print(json.dumps({**rows, "programs": {name: _program_row(found) for name, found in programs.items()}}, indent=1))
    else:
        _print(toolchains, programs)


def _toolchain_row(toolchain: "Toolchain") -> dict[str, Any]:
    return {"folder": str(toolchain.folder), **toolchain.facts()}


def _program_row(found: "Program | ToolchainError") -> dict[str, Any]:
    if isinstance(found, ToolchainError):
        return {"path": None, "error": str(found)}
    return {"path": str(found.path), "name": found.name, "origin": found.origin, "version": found.version}


def _print(toolchains: "list[Toolchain]", programs: "dict[str, Program | ToolchainError]") -> None:
    from bitclass3_core.toolchain.places import managed_folder

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

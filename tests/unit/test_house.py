"""Where code lives: the command line holds no logic, and no room of the core imports one that imports it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import bitclass3_core

CORE = Path(bitclass3_core.__file__).parent
ROOMS = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
OF_THE_COMMAND_LINE = {"cli", "runs", "release", "compare", "toolchain", "errors", "progress", "results", "files"}


def nodes(tree: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    """All nodes below; with ``lazy`` those for type checkers alone and those of a module's ``__getattr__`` too."""
    for node in ast.iter_child_nodes(tree):
        for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if lazy or not (for_checkers or (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")):
            yield node
            yield from nodes(node, lazy)


def rooms(text: str, package: str, lazy: bool = False) -> set[str]:
    """The rooms that a module of ``package`` imports from, ``__init__`` for names of the package ``bitclass3_core`` itself."""
    names: list[str] = []
    for node in nodes(ast.parse(text), lazy):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names += [f"{module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.split(".")[0] == "bitclass3_core"]
    return {part[1] if len(part) > 1 and part[1] in ROOMS else "__init__" for part in parts}


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(CORE.parent).parent.parts)


def graph() -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    found: dict[str, set[str]] = {}
    for path in CORE.rglob("*.py"):
        room = path.relative_to(CORE).parts[0].removesuffix(".py")
        found.setdefault(room, set()).update(rooms(path.read_text(encoding="utf-8"), package_of(path)) - {room})
    return found


def test_the_command_line_holds_no_logic() -> None:
    found = {path.name: rooms(path.read_text(encoding="utf-8"), package_of(path), lazy=True) for path in CORE.glob("cli/*.py")}
    others = {name: there - OF_THE_COMMAND_LINE for name, there in found.items()}
    assert {name: there for name, there in others.items() if there} == {}


def test_no_import_between_rooms_runs_back() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"rooms import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import bitclass3_core.gguf.model", {"gguf"}),
        ("from bitclass3_core.errors import ConfigError, did_you_mean", {"errors"}),
        ("from bitclass3_core import hookimpl, kernels", {"__init__", "kernels"}),
        ("from ..runs import pipeline", {"runs"}),
        ("def f():\n    from bitclass3_core.runs.plan import plan_values", {"runs"}),
        ("import bitclass3_corelike, json", set()),
    ],
)
def test_imports_are_read(text: str, found: set[str]) -> None:
    assert rooms(text, "bitclass3_core.cli") == found


@pytest.mark.parametrize("before", ["if TYPE_CHECKING:", "def __getattr__(name):"])
def test_imports_for_type_checkers_and_those_on_demand_make_no_circle(before: str) -> None:
    text = f"{before}\n    from bitclass3_core.runs.api import run"
    assert rooms(text, "bitclass3_core") == set()
    assert rooms(text, "bitclass3_core", lazy=True) == {"runs"}

"""What a plugin's answer depends on in code: its own source, and that of everything of bitclass3's or its own that it imports.

An edit of a helper module must make artefacts again as an edit of the plugin does.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

_PREFIX = "bitclass3"


def source_hash(module: ModuleType) -> str:
    """Hash over the source files of the module and, transitively, of what it imports from bitclass3 or from its own package."""
    own = module.__name__.split(".")[0]
    start = Path(getattr(module, "__file__", None) or "")  # a module made in memory has no file
    files: dict[Path, str] = {start: module.__name__}
    waiting = [(start, module.__name__)]
    while waiting:
        path, name = waiting.pop()
        for imported in _imports(path, name):
            file = _file_of(imported) if imported.startswith((_PREFIX, own)) else None
            if file is not None and file not in files:
                files[file] = imported
                waiting.append((file, imported))
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: files[path] if path != start else ""):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:12]


def _imports(path: Path, name: str) -> Iterator[str]:
    """Full names of the modules that a source file may import, also inside functions; parents of each included.

    What a type checker alone reads, and what a package fetches only when its ``__getattr__`` is asked for a name, does not count: the
    core fetches its whole pipeline that way.
    """
    if path.suffix != ".py" or not path.is_file():
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for full in names:
            parts = full.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node but those that never run on import or use: see ``_imports``."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield from ast.walk(node)


@cache
def _file_of(name: str) -> Path | None:
    """The source file of a module by name; None for what is no module (a function that was imported by name)."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None

"""The library beside the plugins: it is none itself, and nothing imports torch before it computes."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import bitclass3_torch
import tomli

ROOT = Path(__file__).parents[2]
PLUGINS = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["bitclass3"]


def test_the_library_has_no_hook_and_imports_no_plugin() -> None:
    assert "bitclass3_torch" not in PLUGINS.values()
    for module in pkgutil.iter_modules(bitclass3_torch.__path__):
        source = Path(importlib.import_module(f"bitclass3_torch.{module.name}").__file__ or "").read_text()
        assert "hookimpl" not in source, module.name
        nodes = list(ast.walk(ast.parse(source)))
        imported = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert not {name.split(".")[0] for name in imported} & set(PLUGINS.values()), module.name


def test_plugins_are_imported_without_torch() -> None:
    """Else ``bitclass3 plugins`` and ``--help`` would take seconds, and need the extra."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *PLUGINS.values()], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""A plugin's version follows its own source and that of every module of bitclass3's or its own that it imports."""

import importlib
import sys
from pathlib import Path

import bitclass3_kl_hessian
import pytest

from bitclass3_core.plugin import source_hash as plugin_sources
from bitclass3_core.plugin.source_hash import source_hash


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mymetric"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .maths import double\nimport json\n")
    (folder / "maths.py").write_text("def double(x):\n    from mymetric.deep import factor\n    return x * factor\n")
    (folder / "deep.py").write_text("factor = 2\n")
    (folder / "unused.py").write_text("nothing = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin_sources._file_of.cache_clear()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "mymetric"]:
        del sys.modules[name]
    plugin_sources._file_of.cache_clear()


@pytest.mark.parametrize(("file", "changes"), [("__init__.py", True), ("maths.py", True), ("deep.py", True), ("unused.py", False)])
def test_edit_of_an_imported_module_changes_the_hash(package: Path, file: str, changes: bool) -> None:
    module = importlib.import_module("mymetric")
    before = source_hash(module)
    assert source_hash(module) == before
    with (package / file).open("a") as edited:
        edited.write("# edited\n")
    assert (source_hash(module) != before) is changes


def test_statistics_count_for_the_kl_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_hash(bitclass3_kl_hessian)
    seen: list[str] = []
    read = Path.read_bytes

    def edited(path: Path) -> bytes:
        seen.append(path.name)
        return read(path) + (b"\n# edited" if path.name == "statistics.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", edited)
    assert source_hash(bitclass3_kl_hessian) != before
    assert {"bitclass3_kl_hessian.py", "estimate.py", "statistics.py", "tokens.py", "sensitivity.py"} <= set(seen)
    assert "pipeline.py" not in seen
    assert "app.py" not in seen

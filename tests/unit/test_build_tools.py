"""cmake and ninja from the registry where the machine has none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitclass3_core.progress import Silent
from bitclass3_core.toolchain import requirements
from bitclass3_core.toolchain.requirements import provide_build_tools, tools_folder, tools_path


class Told(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, line):
        self.warnings.append(line)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A PATH with nothing on it."""
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.mark.slow
def test_both_are_installed_and_run(empty):
    told = Told()
    provide_build_tools(str(empty), told)
    assert told.warnings == []
    path = os.pathsep.join(tools_path())
    for name in ("cmake", "ninja"):
        done = subprocess.run([name, "--version"], env={"PATH": path}, capture_output=True, text=True, check=True)
        assert done.stdout
    assert [entry.name for entry in tools_folder().parent.iterdir()] == ["build-tools"]


@pytest.mark.parametrize("builder", ["ninja", "make"])
def test_nothing_is_installed_where_they_are(empty, monkeypatch, builder):
    monkeypatch.setattr(requirements, "pip", lambda *_, **__: pytest.fail("pip was called"))
    program(empty / "cmake")
    program(empty / builder)
    provide_build_tools(str(empty), Silent())
    assert not tools_folder().exists()


def test_offline_is_a_warning(empty, monkeypatch):
    monkeypatch.setattr(requirements, "_PACKAGES", ("a-package-that-nobody-has-made",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    told = Told()
    provide_build_tools(str(empty), told)
    assert "they could not be installed; pip's last lines: ERROR: " in told.warnings[0]
    assert list(tools_folder().parent.iterdir()) == []


def test_without_pip(empty, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    provide_build_tools(str(empty), Silent())
    assert not tools_folder().exists()

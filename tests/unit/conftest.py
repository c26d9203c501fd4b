"""A small run, and a process that is as it was after each test that opens one."""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from run_fixtures import SmallRun, write_model

from bitclass3_core import machine
from bitclass3_core.gguf.kernels import library
from bitclass3_core.plugin import manager

installed_once = cache(entry_points)  # reading every distribution's takes longer than most of these tests


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small.gguf")


@pytest.fixture
def same_machine() -> Iterator[None]:
    """Threads and llama.cpp are facts of the process: opening a run changes them."""
    yield
    if machine.use():
        library.cache_clear()


@pytest.fixture
def small(tmp_path: Path, small_gguf: Path, same_machine: None, monkeypatch: pytest.MonkeyPatch) -> SmallRun:
    monkeypatch.setattr(manager, "entry_points", installed_once)
    return SmallRun(tmp_path, small_gguf)

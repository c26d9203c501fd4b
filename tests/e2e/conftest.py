"""One finished small run that tests look at, and copy before they change anything."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run at 4.8 bpw."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = run(out, "--target-bpw", 4.8)
    assert done.code == 0, done.err
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the finished run's folder."""

    def copy() -> Path:
        return Path(shutil.copytree(finished, tmp_path / "copy"))

    return copy

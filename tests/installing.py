"""Installing packages as a user does, by pip, but offline: into a folder that is put on the path of a process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]


def pip_install(packages: Sequence[Path], target: Path) -> None:
    """Install packages from their folders into ``target``."""
    line = [sys.executable, "-m", "pip", "install", *OFFLINE, "--target", str(target), *map(str, packages)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def environment(target: Path, **more: str) -> Mapping[str, str]:
    """The environment of a process that finds what lies in ``target``."""
    return {**os.environ, "PYTHONPATH": str(target), "PYTEST_ADDOPTS": "-p no:cacheprovider", **more}


def python(*arguments: object, target: Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own that finds what lies in ``target``."""
    line = [sys.executable, *map(str, arguments)]
    env = environment(target, **more)
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, env=dict(env), timeout=600)

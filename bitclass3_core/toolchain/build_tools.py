"""Installs cmake and ninja from the package registry into the cache, so that a build needs nothing but a compiler."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.places import cache_folder
from bitclass3_core.toolchain.running import last_lines

_PACKAGES = ("cmake>=3.25,<5", "ninja>=1.11")


def tools_folder() -> Path:
    """The folder that they are installed into."""
    return cache_folder() / "build-tools"


def tools_path() -> list[str]:
    """The folders with their programs."""
    return [str(tools_folder() / "cmake" / "data" / "bin"), str(tools_folder() / "bin")]


def provide_build_tools(path: str, progress: Progress) -> None:
    """Install cmake and ninja by pip unless ``path`` has cmake and ninja or make; without pip or a network nothing happens.

    The caller checks what is still missing.
    """
    lacks_builder = not (shutil.which("ninja", path=path) or shutil.which("make", path=path))
    if not lacks_builder and shutil.which("cmake", path=path):
        return
    if importlib.util.find_spec("pip") is None:
        return
    progress.say(f"cmake or ninja is missing: installing both from the package registry into {tools_folder()}")
    tools_folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-tools-", dir=tools_folder().parent) as part:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--only-binary", ":all:", "--target", part, *_PACKAGES],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "PIP_USER": "0"},
        )
        if done.returncode:
            progress.warn(f"they could not be installed; pip's last lines: {last_lines(done.stderr, 2)}")
            return
        shutil.rmtree(tools_folder(), ignore_errors=True)
        Path(part).rename(tools_folder())
        Path(part).mkdir()  # for the context manager to remove

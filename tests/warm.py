"""Runs of the command in processes that have the large libraries imported already: that takes seconds, and most commands need less.

A server imports them once for each worker and forks for each command. bitclass3 and its plugins are imported by the command itself, with
arguments, folder and environment of its own.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = [
    "gguf",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numba",
    "numpy",
    "ortools.sat.python.cp_model",
    "pydantic",
    "torch.overrides",
    "transformers.activations",
    "transformers.modeling_layers",
    "transformers.modeling_utils",
    "transformers.models.auto.auto_factory",
    "typer",
]
# Variables that Python or these libraries read when they are started or imported: one of them changed, and the server is of no use.
_READ_AT_START = (
    "PYTHON",
    "LD_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMBA_",
    "TORCH_",
    "CUDA_",
    "HF_",
    "TRANSFORMERS_",
    "MPL",
    "XDG_",
    "HOME",
)
_at_start: dict[str, str] = {}


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key.startswith(_READ_AT_START)}


def is_warm(env: Mapping[str, str]) -> bool:
    """Whether the server can stand for a new Python with that environment. Starts it with the first call."""
    if sys.platform != "linux":
        return False
    if not _at_start:
        multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
        _at_start.update({**_read_at_start(os.environ), "started": "yes"})
    return {**_read_at_start(env), "started": "yes"} == _at_start


def run_warm(arguments: list[str], cwd: Path, env: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``python -m bitclass3_core`` with these arguments. Raises TimeoutExpired."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = multiprocessing.get_context("forkserver").Process(target=_be, args=(arguments, cwd, dict(env), out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout)
        return process.exitcode, out.read_text(), err.read_text()


def _be(arguments: list[str], cwd: Path, env: dict[str, str], out: Path, err: Path) -> None:
    """Be that command."""
    for fd, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0:0] = [str(cwd)]
    sys.argv = ["bitclass3", *arguments]
    runpy.run_module("bitclass3_core", run_name="__main__", alter_sys=True)

"""Versions of everything that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

from bitclass3_core import __version__
from bitclass3_core.gguf.kernels import library

_PACKAGES = ("gguf", "libggml-python", "numpy", "ortools", "torch", "transformers")


def versions() -> dict[str, str]:
    """Package versions, the ggml kernels in use, Python and platform."""
    found = {"bitclass3": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "ggml kernels": library().version}

"""Versions of all that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

from bitclass3_core import __version__
from bitclass3_core.gguf.kernels import library
from bitclass3_core.runs import versions as module
from bitclass3_core.runs.versions import versions


def test_versions_are_those_in_use():
    found = versions()
    assert found["bitclass3"] == __version__
    assert found["python"] == platform.python_version()
    assert found["numpy"] == version("numpy")
    assert found["ggml kernels"] == library().version
    assert all(isinstance(value, str) and value for value in found.values())


def test_package_that_is_not_installed_is_said_to_be_so(monkeypatch):
    def without_torch(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(module, "version", without_torch)
    assert (versions()["torch"], versions()["numpy"]) == ("not installed", "1.0")

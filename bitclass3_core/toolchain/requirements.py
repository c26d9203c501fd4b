"""What a build needs on this machine: cmake, ninja or make, a compiler, the SDK of the back end. Checked before the download.

cmake and ninja are installed from the package registry into the cache, so that a build needs nothing but a compiler.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.errors import ConfigError, ToolchainError, did_you_mean
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.places import cache_folder
from bitclass3_core.toolchain.running import captured, last_lines, pip

# The switch of each back end, and the program that shows that its SDK is there.
BACKENDS = {
    "cpu": ("", ""),
    "cuda": ("GGML_CUDA", "nvcc"),
    "vulkan": ("GGML_VULKAN", "glslc"),
    "metal": ("GGML_METAL", ""),
    "hip": ("GGML_HIP", "hipconfig"),
    "sycl": ("GGML_SYCL", "icpx"),
}
_PACKAGES = ("cmake>=3.25,<5", "ninja>=1.11")
_SDK_HINTS = {
    "nvcc": "the CUDA toolkit, with nvcc on PATH or CUDACXX set",
    "glslc": "apt install libvulkan-dev glslc, or the Vulkan SDK",
    "hipconfig": "ROCm, with hipconfig on PATH",
    "icpx": "oneAPI, after `source setvars.sh`",
}


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that were found."""

    cmake: str
    generator: str  # as cmake calls it
    compiler: str  # the first line of its --version


def tools_folder() -> Path:
    """The folder that they are installed into."""
    return cache_folder() / "build-tools"


def tools_path() -> list[str]:
    """The folders with their programs."""
    return [str(tools_folder() / "cmake" / "data" / "bin"), str(tools_folder() / "bin")]


def search_path() -> str:
    """PATH, then the scripts of this Python (where `pip install cmake ninja` puts them), then the tools that bitclass3 installed."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"), *tools_path()])


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
        options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--target", part)
        done = pip("install", *options, *_PACKAGES, environment={"PIP_USER": "0"})
        if done.returncode:
            progress.warn(f"they could not be installed; pip's last lines: {last_lines(done.stderr, 2)}")
            return
        shutil.rmtree(tools_folder(), ignore_errors=True)
        Path(part).rename(tools_folder())
        Path(part).mkdir()  # for the context manager to remove


def require_backend(backend: str) -> None:
    """Raise ConfigError unless the back end is known and this system can have it."""
    if backend not in BACKENDS:
        raise ConfigError(f"no back end {backend!r}{did_you_mean(backend, BACKENDS)}")
    if backend == "metal" and sys.platform != "darwin":
        raise ConfigError("back end metal needs macOS; use cuda, vulkan, hip, sycl or cpu")


def _compiler(variable: str, names: tuple[str, ...]) -> str | None:
    """The compiler that cmake will use: ``$CC`` or ``$CXX``, which may contain flags, else one of ``names``."""
    given = shlex.split(os.environ.get(variable, ""))[:1]
    found = (shutil.which(name, path=search_path()) for name in given or names)
    return next((path for path in found if path), None)


def _hint(missing: list[str]) -> str:
    hints = []
    if {"C compiler", "C++ compiler"} & {*missing}:
        hints.append("xcode-select --install" if sys.platform == "darwin" else "apt install g++ (dnf install gcc-c++)")
    if {"cmake", "ninja or make"} & {*missing}:
        hints.append("pip install cmake ninja (or apt install cmake ninja-build)")
    return "; ".join([*hints, *(_SDK_HINTS[name] for name in missing if name in _SDK_HINTS)])


def require_tools(backend: str) -> Tools:
    """The tools that a build for that back end needs. Raises ToolchainError, which names all that are missing and how to get them."""
    if sys.platform == "win32":
        raise ToolchainError(
            "llama.cpp is built on Linux and macOS only; unpack a release of llama.cpp and set LLAMA_CPP_DIR to it"
        )
    path = search_path()
    icx = backend == "sycl"
    c = _compiler("CC", ("icx",) if icx else ("cc", "gcc", "clang"))
    cxx = _compiler("CXX", ("icpx",) if icx else ("c++", "g++", "clang++"))
    cmake, ninja, make = (shutil.which(name, path=path) for name in ("cmake", "ninja", "make"))
    needed = {"cmake": cmake, "ninja or make": ninja or make, "C compiler": c, "C++ compiler": cxx}
    sdk = BACKENDS[backend][1]
    if sdk:
        needed[sdk] = shutil.which(sdk, path=path) or (os.environ.get("CUDACXX") if sdk == "nvcc" else None)
    missing = [name for name, found in needed.items() if not found]
    if not cmake or not cxx or missing:
        raise ToolchainError(f"missing to build llama.cpp: {', '.join(missing)}; get them: {_hint(missing)}")
    return Tools(cmake, "Ninja" if ninja else "Unix Makefiles", _first_line(cxx))


def _first_line(compiler: str) -> str:
    try:
        done = captured([compiler, "--version"], 20)
    except (OSError, subprocess.TimeoutExpired):
        return compiler
    return next(iter(done.stdout.splitlines()), "") or compiler

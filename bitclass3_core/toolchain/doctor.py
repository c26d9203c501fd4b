"""What this machine has, and what works without the rest."""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from bitclass3_core.errors import Bitclass3Error, ToolchainError
from bitclass3_core.gguf.kernels import library
from bitclass3_core.machine import default_threads
from bitclass3_core.toolchain.finding import Program, find_all


@dataclass(frozen=True, slots=True)
class Check:
    """Something that a run may use: whether it is there, where and in which version, or what is missing without it.

    No run goes without what is ``needed``.
    """

    name: str
    ok: bool
    detail: str
    needed: bool = False


def checks() -> list[Check]:
    """The kernels of ggml, torch, and every program of llama.cpp."""
    return [_kernels(), _torch(), *(_program(name, found) for name, found in find_all().items())]


def facts() -> dict[str, str]:
    """Cores, and free bytes on the disk of the current folder."""
    return {"cores": str(default_threads(0)), "free disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"}


def require(found: Sequence[Check]) -> None:
    """Raise ToolchainError for the first check that failed of those that every run needs."""
    for check in found:
        if check.needed and not check.ok:
            raise ToolchainError(check.detail)


def _kernels() -> Check:
    try:
        found = library()
    except Bitclass3Error as error:
        return Check("ggml kernels", False, str(error), needed=True)
    return Check("ggml kernels", True, f"ggml {found.version} ({found.path})", needed=True)


def _torch() -> Check:
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        lost = "no sensitivity in nats and no evaluation by torch"
        return Check(
            "torch", False, f"not installed: {lost}; pip install 'bitclass3[torch]'; plugins that run llama.cpp work without"
        )
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return Check("torch", True, f"torch {torch.__version__}, transformers {version('transformers')}, device {device}")


def _program(name: str, found: Program | ToolchainError) -> Check:
    if isinstance(found, ToolchainError):
        return Check(name, False, f"{found}; not needed: the default exporter and evaluator work without")
    version = f", {found.version}" if found.version else ""
    return Check(name, True, f"{found.path} ({found.origin}{version})")

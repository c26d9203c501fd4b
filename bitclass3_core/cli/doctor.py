"""``bitclass3 doctor``: what this machine has, and what works without the rest."""

import importlib.util
import json
import shutil
from importlib.metadata import version

from bitclass3_core.errors import Bitclass3Error, ToolchainError
from bitclass3_core.gguf.kernels import library
from bitclass3_core.machine import default_threads
from bitclass3_core.toolchain.finding import Program, find_all


def _kernels() -> tuple[bool, str]:
    try:
        found = library()
    except Bitclass3Error as error:
        return False, str(error)
    return True, f"ggml {found.version} ({found.path})"


def _torch() -> tuple[bool, str]:
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        return (
            False,
            "not installed: no kl-hessian, hessian-diag or torch evaluation; pip install 'bitclass3[torch]'; --plugin imatrix works without",
        )
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return True, f"torch {torch.__version__}, transformers {version('transformers')}, device {device}"


def _program(found: Program | ToolchainError) -> tuple[bool, str]:
    if isinstance(found, ToolchainError):
        return False, f"{found}; not needed: the exporter gguf and the evaluator torch work without"
    version = f", {found.version}" if found.version else ""
    return True, f"{found.path} ({found.origin}{version})"


def doctor_command(as_json: bool) -> None:
    """Print every check. Raises ToolchainError if something that every run needs is missing."""
    free = shutil.disk_usage(".").free
    checks = {"ggml kernels": _kernels(), "torch": _torch(), **{name: _program(found) for name, found in find_all().items()}}
    facts = {"cores": str(default_threads(0)), "free disk here": f"{free / 2**30:.1f} GiB"}
    if as_json:
        print(json.dumps({"checks": {k: {"ok": ok, "detail": detail} for k, (ok, detail) in checks.items()}, **facts}, indent=1))
    else:
        for name, (ok, detail) in checks.items():
            print(f"{'ok     ' if ok else 'missing'}  {name}: {detail}")
        for name, detail in facts.items():
            print(f"         {name}: {detail}")
    if not checks["ggml kernels"][0]:
        raise ToolchainError(checks["ggml kernels"][1])

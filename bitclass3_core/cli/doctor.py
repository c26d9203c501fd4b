"""``bitclass3 doctor``: what this machine has, and what works without the rest."""

import importlib.util
import json
import os
import shutil
from importlib.metadata import version

from bitclass3_core.errors import Bitclass3Error, ToolchainError
from bitclass3_core.kernels import library
from bitclass3_core.measuring import default_threads

_PROGRAMS = ("llama-quantize", "llama-imatrix", "llama-perplexity")


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


def _program(name: str) -> tuple[bool, str]:
    folder = os.environ.get("LLAMA_CPP_DIR", "")
    path = os.pathsep.join([folder, f"{folder}/bin", f"{folder}/build/bin", os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    return bool(
        found
    ), found or "not found (LLAMA_CPP_DIR, PATH); not needed: the exporter gguf and the evaluator torch work without"


def doctor_command(as_json: bool) -> None:
    """Print every check. Raises ToolchainError if something that every run needs is missing."""
    free = shutil.disk_usage(".").free
    checks = {"ggml kernels": _kernels(), "torch": _torch(), **{name: _program(name) for name in _PROGRAMS}}
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

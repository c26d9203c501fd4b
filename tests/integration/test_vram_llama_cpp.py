"""KV cache, recurrent state and compute buffers beside what llama.cpp itself reports when it loads the model."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command import GGUF
from families import FAMILIES

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.vram import memory_of
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import run_program

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
MIB = 2**20
_ATTEMPTS = 8  # the printing thread may lose the end
_LOADED = "model buffer size"
_SIZES = {
    "kv": r"llama_kv_cache: size = +([\d.]+) MiB",
    "state": r"llama_memory_recurrent: size = +([\d.]+) MiB",
    "compute": r"sched_reserve: .*compute buffer size = +([\d.]+) MiB",
}


def reported(llama_cpp: Path, model: Path, n_ctx: int, kv_type: str) -> dict[str, float]:
    """MiB that llama-completion says it takes; the last of its attempts to fit the model counts."""
    program = find_program("llama-completion", llama_cpp).path
    caches = ["-c", str(n_ctx), "-ctk", kv_type, "-ctv", kv_type, "-fa", "on"]
    command = [
        str(program),
        "-m",
        str(model),
        "-p",
        "the",
        "-n",
        "1",
        "-no-cnv",
        "-ngl",
        "0",
        "-t",
        "1",
        "--no-warmup",
        "-v",
        *caches,
    ]
    for _ in range(_ATTEMPTS):
        output = run_program(command)
        last = output[output.rfind(_LOADED) :]
        found = {what: sum(map(float, re.findall(pattern, last))) for what, pattern in _SIZES.items()}
        if found["compute"]:
            return found
    raise AssertionError("llama-completion never said what it takes")


def compare(llama_cpp: Path, path: Path, n_ctx: int, kv_type: str) -> None:
    theirs, ours = reported(llama_cpp, path, n_ctx, kv_type), memory_of(GgufModel(path), n_ctx, kv_type)
    assert ours.kv_bytes / MIB == pytest.approx(theirs["kv"], abs=0.006)
    assert ours.state_bytes / MIB == pytest.approx(theirs["state"], abs=0.006)
    # an upper estimate; of a tiny model most of it is slack, so what grows with the context must be near
    assert theirs["compute"] <= ours.compute_bytes / MIB <= 1.25 * theirs["compute"] + 8


@pytest.mark.parametrize(("n_ctx", "kv_type"), [(300, "f16"), (4096, "f16"), (32768, "q8_0")])
def test_example_model(llama_cpp: Path, n_ctx: int, kv_type: str) -> None:
    compare(llama_cpp, GGUF, n_ctx, kv_type)


@pytest.mark.parametrize("name", FAMILIES)
def test_families(tiny: Callable[[str], Path], llama_cpp: Path, name: str) -> None:
    compare(llama_cpp, tiny(name), 32768, "q8_0")

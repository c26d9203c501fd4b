"""Tiny models of every family, converted once for all workers, and one run with plain rounding."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command import run
from families import make_hf
from rounding_runs import TARGET

from bitclass3_core.progress import Silent
from bitclass3_core.toolchain.converting import convert
from bitclass3_core.toolchain.places import locked


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, llama_cpp: Path) -> Callable[[str], Path]:
    """The BF16 GGUF of a family's tiny model, by llama.cpp's converter; its HF folder is the one that it lies in."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def converted(name: str) -> Path:
        gguf = shared / "tiny" / name / f"{name}.gguf"
        with locked(shared / f"{name}.lock", Silent()):
            if not gguf.is_file():
                convert(make_hf(name, gguf.parent), gguf, Silent(), pre_tokenizer="gpt-2", llama_cpp=llama_cpp)
        return gguf

    return converted


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the example at 3.6 bpw with plain rounding."""
    out = tmp_path_factory.mktemp("plain") / "out"
    done = run(out, *TARGET)
    assert done.code == 0, done.err
    return out

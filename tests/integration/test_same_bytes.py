"""The exporter ``gguf`` and llama-quantize of the same build, from the same recipe and imatrix: the same file to the last byte."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import ROOT

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.qtypes import FLOAT_QTYPES, WRITABLE_QTYPES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of tokenizers' own making
FAMILIES = ("llama", "qwen35", "qwen3moe")


def fields(model: GgufModel) -> dict[str, bytes]:
    return {key: b"".join(part.tobytes() for part in value.parts) for key, value in model.fields.items()}


@pytest.fixture(scope="module")
def exported(tiny: Callable[[str], Path], llama_cpp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of both exporters' files, written by a process of its own: there the kernels are those of that llama.cpp."""
    out = tmp_path_factory.mktemp("both")
    command = [sys.executable, str(ROOT / "tests" / "export_both.py"), str(out), *(str(tiny(name)) for name in FAMILIES)]
    environment = {**os.environ, "LLAMA_CPP_DIR": str(llama_cpp)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(llama_cpp)
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_both_exporters_write_the_same_file(exported: Path, name: str) -> None:
    used = set()
    for ours_path in sorted((exported / name).glob("ours-*.gguf")):
        ours, stock = GgufModel(ours_path), GgufModel(ours_path.with_name(ours_path.name.replace("ours", "stock")))
        assert ours.tensors == stock.tensors
        assert [t for t in ours.tensors if not np.array_equal(ours.read_raw(t), stock.read_raw(t))] == []
        assert fields(ours) == fields(stock)
        assert ours.path.read_bytes() == stock.path.read_bytes()
        used |= {info.dtype for info in ours.tensors.values()}
    assert used - {*FLOAT_QTYPES} == {*WRITABLE_QTYPES}

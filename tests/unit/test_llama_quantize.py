"""The exporter that runs llama-quantize, with programs that stand in for it."""

import sys
from pathlib import Path

import bitclass3_gguf
import bitclass3_llama_quantize as llama_quantize
import numpy as np
import pytest
from gguf_files import write_gguf

from bitclass3_core.errors import ModelFileError, ToolchainError
from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
QTYPES = {"token_embd.weight": "Q6_K", "blk.0.attn_q.weight": "Q4_K", "blk.0.ffn_up_exps.weight": "Q8_0"}


@pytest.fixture(autouse=True)
def _no_llama_cpp(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    return GgufModel(write_gguf(tmp_path / "model" / "source.gguf"))


@pytest.fixture
def quantized(model, tmp_path):
    """The file that llama-quantize would write, made by our own exporter."""
    sensitivity = Sensitivity({name: TensorSensitivity(Powers(np.ones(256, np.float32))) for name in QTYPES}, "test", 1, 1, "")
    arguments = {"model": model, "allocation": Allocation(QTYPES), "sensitivity": sensitivity, "progress": Silent()}
    options = bitclass3_gguf.Options(threads=1)
    return bitclass3_gguf.bitclass3_export(**arguments, out=tmp_path / "made", stem="quantized", options=options)[0]


def program(folder: Path, script: str) -> Path:
    """A llama-quantize in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llama-quantize"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def copies(source: Path) -> str:
    """A script that writes its arguments to a file and copies ``source`` to its last argument but one."""
    return f'printf "%s\\n" "$@" > arguments.txt\nwhile [ $# -gt 2 ]; do shift; done\ncp "{source}" "$1"'


def export(model, out, **options):
    out.mkdir(exist_ok=True)
    return llama_quantize.bitclass3_export(
        model=model,
        allocation=Allocation(QTYPES),
        out=out,
        stem="m",
        options=llama_quantize.Options(**options),
        progress=Silent(),
    )


def test_file_is_what_the_program_wrote(model, quantized, tmp_path):
    program(tmp_path / "bin", copies(quantized))
    out = tmp_path / "out"
    assert export(model, out) == [out / "m.gguf", out / "m.tensor_types.txt"]
    assert (out / "m.gguf").read_bytes() == quantized.read_bytes()
    arguments = (out / "arguments.txt").read_text().splitlines()
    assert arguments[:2] == ["--tensor-type-file", "m.tensor_types.txt"]
    assert arguments[2:4] == ["--token-embedding-type", "q6_k"]
    assert arguments[4] == "../model/source.gguf"
    assert arguments[6:] == ["Q6_K"]
    assert sorted(path.name for path in out.iterdir()) == ["arguments.txt", "m.gguf", "m.tensor_types.txt"]


def test_imatrix_is_given_by_its_bare_name(model, quantized, tmp_path):
    program(tmp_path / "bin", copies(quantized))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "imatrix.gguf").touch()
    export(model, tmp_path / "out")
    assert "--imatrix\nimatrix.gguf\n" in (tmp_path / "out" / "arguments.txt").read_text()


def test_types_that_were_not_asked_for(model, tmp_path):
    program(tmp_path / "bin", copies(model.path))
    message = (
        "llama-quantize wrote other types than asked in 3 tensors: token_embd.weight is BF16, asked Q6_K; "
        "blk.0.attn_q.weight is BF16, asked Q4_K; blk.0.ffn_up_exps.weight is BF16, asked Q8_0"
    )
    with pytest.raises(ToolchainError, match=f"^{message}$"):
        export(model, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.gguf*")] == []


def test_tensor_that_is_missing(model, tmp_path):
    small = write_gguf(tmp_path / "small.gguf", {"output_norm.weight": ((256,), "F32")})
    program(tmp_path / "bin", copies(small))
    with pytest.raises(ToolchainError, match=r"in 3 tensors: token_embd\.weight is missing; .*"):
        export(model, tmp_path / "out")


def test_failure_shows_the_last_lines_and_leaves_no_file(model, tmp_path):
    lines = 'echo line 1; echo line 2; echo "" ; echo line 3 >&2; echo "bad tensor" >&2; echo "failed to quantize" >&2'
    program(tmp_path / "bin", f"{copies(model.path)}; {lines}; exit 3")
    message = r"failed with exit code 3; its last lines: line 2 \| line 3 \| bad tensor \| failed to quantize$"
    with pytest.raises(ToolchainError, match=message):
        export(model, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["arguments.txt", "m.tensor_types.txt"]


def test_program_that_writes_nothing(model, tmp_path):
    program(tmp_path / "bin", "exit 0")
    with pytest.raises(ModelFileError, match="does not exist"):
        export(model, tmp_path / "out")


def test_program_that_writes_half_a_file(model, quantized, tmp_path):
    half = tmp_path / "half.gguf"
    half.write_bytes(quantized.read_bytes()[:-100])
    program(tmp_path / "bin", copies(half))
    with pytest.raises(ModelFileError, match="is damaged or truncated"):
        export(model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.gguf*"))


def test_program_of_another_machine(model, tmp_path):
    path = program(tmp_path / "bin", "")
    path.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(
        ToolchainError, match=r"llama-quantize cannot be run \(Exec format error\); build llama\.cpp for this machine"
    ):
        export(model, tmp_path / "out")


def test_not_found(model, tmp_path):
    message = (
        f"llama-quantize was not found; looked in PATH, {tmp_path}/cache/llama.cpp (managed); run `bitclass3 toolchain install`"
    )
    with pytest.raises(ToolchainError) as caught:
        export(model, tmp_path / "out")
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("; --plugin gguf needs no llama.cpp")


@pytest.mark.parametrize("place", ["", "bin", "build/bin"])
def test_option_beats_path(model, quantized, tmp_path, place):
    program(tmp_path / "bin", "exit 1")
    program(tmp_path / "given" / place, copies(quantized))
    assert export(model, tmp_path / "out", llama_cpp=tmp_path / "given")[0].is_file()


def test_relative_folder_works_although_the_program_runs_elsewhere(model, quantized, tmp_path, monkeypatch):
    program(tmp_path / "llama.cpp" / "build" / "bin", copies(quantized))
    monkeypatch.chdir(tmp_path)
    assert export(model, tmp_path / "out", llama_cpp="llama.cpp")[0].is_file()

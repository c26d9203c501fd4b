"""The exporter that runs llama-quantize, with programs that stand in for it."""

import sys
from pathlib import Path

import bitclass3_gguf
import bitclass3_llama_quantize as llama_quantize
import numpy as np
import pytest
from gguf_files import write_gguf, write_split

from bitclass3_core.errors import Bitclass3Error, ModelFileError, ToolchainError, UnusableTypeError
from bitclass3_core.gguf.model import GgufModel
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
    return bitclass3_gguf.write_file(**arguments, out=tmp_path / "made", stem="quantized", options=options)[0]


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
    message = (
        r"failed with exit code 3; its last lines: line 1 \| line 2 \| line 3 \| bad tensor \| failed to quantize; nothing of it"
    )
    with pytest.raises(ToolchainError, match=message):
        export(model, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["arguments.txt", "m.tensor_types.txt"]


def test_program_that_writes_nothing(model, tmp_path):
    program(tmp_path / "bin", "echo done")
    with pytest.raises(ToolchainError, match=r"llama-quantize wrote no \.m\.gguf.*; its last lines: done"):
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


LINE = 'echo "[   2/   3] blk.0.attn_q.weight - [ 256, 16, 1, 1], type = bf16, converting to q4_K .. "'


@pytest.mark.parametrize(
    "fault",
    [
        'echo "ggml_validate_row_data: found nan value at block 0"; echo "failed to quantize: quantized data validation failed"; exit 1',
        'echo "ggml-quants.c:100: GGML_ASSERT(sumw > 0) failed"; kill -ABRT $$',
    ],
)
def test_tensor_that_cannot_have_its_type_is_named(model, tmp_path, fault):
    program(tmp_path / "bin", f"{LINE}; {fault}")
    with pytest.raises(UnusableTypeError, match=r"blk\.0\.attn_q\.weight cannot be Q4_K: llama-quantize fails on it \(") as caught:
        export(model, tmp_path / "out")
    assert (caught.value.tensor, caught.value.qtype) == ("blk.0.attn_q.weight", "Q4_K")
    assert not list((tmp_path / "out").glob("*.gguf*"))


def test_crash_half_way_is_the_programs_fault(model, tmp_path):
    program(tmp_path / "bin", f"{LINE}; kill -SEGV $$")
    with pytest.raises(
        ToolchainError, match=r"llama-quantize crashed \(SIGSEGV\).* at blk\.0\.attn_q\.weight \(q4_K\); nothing of"
    ):
        export(model, tmp_path / "out")


def test_killed(model, tmp_path):
    program(tmp_path / "bin", "kill -KILL $$")
    with pytest.raises(ToolchainError, match=r"llama-quantize was killed \(SIGKILL; out of memory\?\)"):
        export(model, tmp_path / "out")


def test_option_that_an_old_program_does_not_know(model, tmp_path):
    program(
        tmp_path / "bin",
        'echo "usage: llama-quantize [--imatrix] [--output-tensor-type] [--token-embedding-type] [--tensor-type]"; exit 1',
    )
    message = r"this llama-quantize does not know the option --tensor-type-file: its llama\.cpp is too old"
    with pytest.raises(ToolchainError, match=message):
        export(model, tmp_path / "out")


def test_full_disk(model, tmp_path):
    program(tmp_path / "bin", 'echo "llama_model_quantize: failed to quantize: basic_ios::clear: iostream error"; exit 1')
    with pytest.raises(Bitclass3Error, match=r"no room on disk to write .*; free some and run again"):
        export(model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.gguf*"))


def test_split_stays_split(tmp_path):
    (tmp_path / "model").mkdir()
    source = GgufModel(write_split(tmp_path / "model")[0])
    script = 'printf "%s\\n" "$@" > arguments.txt; while [ $# -gt 2 ]; do shift; done\n'
    script += "".join(f'cp "{path}" "$(basename "$1" .gguf)-{path.name[6:]}"\n' for path in source.files)
    program(tmp_path / "bin", script)
    asked = Allocation(dict.fromkeys(QTYPES, "BF16"))
    (tmp_path / "out").mkdir()
    files = llama_quantize.bitclass3_export(
        model=source,
        allocation=asked,
        out=tmp_path / "out",
        stem="m",
        options=llama_quantize.Options(keep_split=True),
        progress=Silent(),
    )
    assert [path.name for path in files] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m.tensor_types.txt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["arguments.txt", *(path.name for path in files)])
    assert GgufModel(files[0]).tensors.keys() == source.tensors.keys()
    assert (tmp_path / "out" / "arguments.txt").read_text().startswith("--keep-split\n")


def test_quantized_source_is_quantized_again(tmp_path):
    (tmp_path / "model").mkdir()
    tensors = {"blk.0.attn_q.weight": ((16, 256), "Q8_0"), "output_norm.weight": ((256,), "F32")}
    source = GgufModel(write_gguf(tmp_path / "model" / "source.gguf", tensors))
    program(tmp_path / "bin", copies(source.path))
    (tmp_path / "out").mkdir()
    llama_quantize.bitclass3_export(
        model=source, allocation=Allocation({"blk.0.attn_q.weight": "Q8_0"}), out=tmp_path / "out", stem="m",
        options=llama_quantize.Options(), progress=Silent(),
    )  # fmt: skip
    assert (tmp_path / "out" / "arguments.txt").read_text().startswith("--allow-requantize\n")

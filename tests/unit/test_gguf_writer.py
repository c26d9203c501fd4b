"""Writing GGUF files: exact sizes, metadata, order, and nothing left behind by a failure."""

import errno
import subprocess
import sys

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import METADATA, TENSORS, write_gguf

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.recipe import nearest_ftype
from bitclass3_core.gguf.writer import FTYPES, gguf_sink, header_bytes, tensor_order
from bitclass3_core.layout import data_bytes, file_bytes
from bitclass3_core.qtypes import WRITABLE_QTYPES, qtype

MATRICES = [name for name, (shape, _) in TENSORS.items() if len(shape) > 1]
ALLOCATIONS = {
    "as the source": {},
    "one type": dict.fromkeys(MATRICES, "Q4_K"),
    "odd sizes": dict.fromkeys(MATRICES, "IQ3_XXS"),
    "mixed": dict(zip(MATRICES, ("Q6_K", "Q5_1", "IQ4_XS", "Q8_0", "BF16"), strict=True)),
}


@pytest.fixture
def model(tmp_path):
    return GgufModel(write_gguf(tmp_path / "source.gguf"))


def write(path, model, qtypes, **options):
    with gguf_sink(path, model, qtypes, "Q4_K_M", **options) as sink:
        for info in tensor_order(model):
            q = qtype(qtypes.get(info.name, info.dtype))
            sink.write(np.full(info.n_bytes(q), len(info.name), np.uint8))


@pytest.mark.parametrize("which", ALLOCATIONS)
def test_size_is_known_before_writing(model, tmp_path, which):
    path, qtypes = tmp_path / "out.gguf", ALLOCATIONS[which]
    write(path, model, qtypes, n_imatrix=5, n_chunks=128)
    assert path.stat().st_size == header_bytes(model) + data_bytes(model, qtypes) == file_bytes(model, qtypes)


@pytest.mark.parametrize("which", ALLOCATIONS)
def test_types_shapes_and_bytes_are_written(model, tmp_path, which):
    qtypes = ALLOCATIONS[which]
    write(tmp_path / "out.gguf", model, qtypes)
    written = GgufModel(tmp_path / "out.gguf")
    for name, info in model.tensors.items():
        assert written.tensors[name].shape == info.shape
        assert written.tensors[name].dtype == qtypes.get(name, info.dtype)
        assert set(written.read_raw(name)) == {len(name)}


def test_metadata_is_copied_but_for_what_the_writer_sets(model, tmp_path):
    write(tmp_path / "out.gguf", model, {}, n_imatrix=5, n_chunks=128)
    set_by_writer = {
        "general.quantization_version": 2,
        "general.file_type": FTYPES["Q4_K_M"],
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "bitclass3",
        "quantize.imatrix.entries_count": 5,
        "quantize.imatrix.chunks_count": 128,
    }
    written = GgufModel(tmp_path / "out.gguf")
    assert written.metadata == {"general.architecture": "llama", **METADATA, **set_by_writer}
    for key, field in model.fields.items():
        assert written.fields[key].types == field.types, key


def test_keys_of_an_earlier_quantization_are_replaced(tmp_path):
    old = {"general.file_type": 7, "general.quantization_version": 1, "quantize.imatrix.file": "/secret/path", "quantize.other": 1}
    model = GgufModel(write_gguf(tmp_path / "q.gguf", metadata={**METADATA, **old}))
    write(tmp_path / "out.gguf", model, {})
    found = GgufModel(tmp_path / "out.gguf").metadata
    assert (found["general.file_type"], found["quantize.imatrix.file"]) == (FTYPES["Q4_K_M"], "imatrix.gguf")
    assert "quantize.other" not in found


def test_order_is_llama_quantize_s(model, tmp_path):
    expected = [
        *("output_norm.weight", "token_embd.weight"),
        *("blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up_exps.weight"),
        "blk.1.attn_q.weight",
    ]
    assert [info.name for info in tensor_order(model)] == expected
    write(tmp_path / "out.gguf", model, {})
    assert [tensor.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors] == expected


def test_blocks_are_ordered_by_number(tmp_path):
    names = [f"blk.{block}.attn_q.weight" for block in (10, 2, 0)]
    model = GgufModel(write_gguf(tmp_path / "m.gguf", dict.fromkeys(names, ((2, 32), "BF16"))))
    assert [info.block for info in tensor_order(model)] == [0, 2, 10]


def write_one_and_raise(path, model):
    with gguf_sink(path, model, {}, "BF16") as sink:
        sink.write(np.zeros(1024, np.uint8))
        raise ZeroDivisionError


def test_nothing_is_left_when_the_block_raises(model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        write_one_and_raise(out / "out.gguf", model)
    assert not list(out.iterdir())


def test_full_disk_leaves_nothing(model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    out = tmp_path / "out"
    with pytest.raises(Bitclass3Error, match=r"no room on disk to write .*out\.gguf; free some and run again"):
        write(out / "out.gguf", model, {})
    assert not list(out.iterdir())


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.writer import gguf_sink, tensor_order
model, out, limit = GgufModel(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with gguf_sink(out, model, {}, "BF16") as sink:
        for info in tensor_order(model):
            sink.write(model.read_raw(info.name))
except Bitclass3Error as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
@pytest.mark.parametrize("limit", [512, 20_000, 60_000])
def test_file_that_really_does_not_fit_leaves_nothing(model, tmp_path, limit):
    """In the header, in a tensor, in a later one."""
    out = tmp_path / "out" / "out.gguf"
    command = [sys.executable, "-c", LIMITED, str(model.path), str(out), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"no room on disk to write {out}; free some"), done.stderr
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("name", [*WRITABLE_QTYPES, "BF16", "F16", "F32"])
def test_every_type_has_a_file_type(model, name):
    assert nearest_ftype(model, dict.fromkeys(MATRICES, name)) in FTYPES


def test_file_types_are_llama_cpp_s():
    known = {"F32": 0, "F16": 1, "Q4_K_M": 15, "Q6_K": 18, "IQ3_XS": 22, "IQ1_M": 31, "BF16": 32}
    assert {name: FTYPES[name] for name in known} == known
    assert len(FTYPES) == 30


def test_mostly_of_a_type_without_a_mix(tmp_path):
    """A source that keeps types which no mix is called after, as MXFP4 weights do."""
    model = GgufModel(write_gguf(tmp_path / "m.gguf"))
    with gguf_sink(tmp_path / "out.gguf", model, {}, "MXFP4") as sink:
        for info in tensor_order(model):
            sink.write(model.read_raw(info.name))
    assert GgufModel(tmp_path / "out.gguf").metadata["general.file_type"] == 1024

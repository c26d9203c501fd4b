"""The exporter ``gguf``: the kernels' bytes, in a file of the promised size."""

import shutil
from collections import namedtuple

import bitclass3_gguf
import bitclass3_gguf.plain
import numpy as np
import pytest
from gguf_files import TENSORS, heavy_tailed, write_gguf

from bitclass3_core.errors import Bitclass3Error, ModelFileError
from bitclass3_core.gguf.kernels import quantize
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import file_bytes
from bitclass3_core.model import TensorInfo
from bitclass3_core.options import Demands, Work
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

QTYPES = {
    "token_embd.weight": "Q6_K",
    "blk.0.attn_q.weight": "IQ3_XXS",
    "blk.0.ffn_up_exps.weight": "Q4_K",
    "blk.0.ffn_down.weight": "F16",
}
IN_POWER = {
    "token_embd.weight": heavy_tailed((256,), 1) ** 2,
    "blk.0.attn_q.weight": heavy_tailed((256,), 2) ** 2,
    "blk.0.ffn_up_exps.weight": heavy_tailed((3, 256), 3) ** 2,
}
SENSITIVITY = Sensitivity({name: TensorSensitivity(Powers(p)) for name, p in IN_POWER.items()}, "test", 4096, 512, "")


@pytest.fixture
def model(tmp_path):
    return GgufModel(write_gguf(tmp_path / "source.gguf"))


def export(model, out, qtypes=QTYPES, sensitivity=SENSITIVITY, threads=1):
    return bitclass3_gguf.write_file(
        model=model,
        allocation=Allocation(qtypes),
        sensitivity=sensitivity,
        out=out,
        stem="m-4.80bpw",
        options=bitclass3_gguf.Options(threads=threads),
        progress=Silent(),
    )


def test_file_holds_the_kernels_bytes(model, tmp_path):
    (path,) = export(model, tmp_path / "out")
    assert path == tmp_path / "out" / "m-4.80bpw.gguf"
    assert path.stat().st_size == file_bytes(model, QTYPES)
    written = GgufModel(path)
    for name, info in model.tensors.items():
        q = qtype(QTYPES.get(name, info.dtype))
        assert written.tensors[name].dtype == q.name
        if q.name == info.dtype:
            assert np.array_equal(written.read_raw(name), model.read_raw(name))
            continue
        powers = np.atleast_2d(IN_POWER[name])
        parts = np.split(model.read(name), len(powers))
        expected = np.concatenate([quantize(rows, q, power) for rows, power in zip(parts, powers, strict=True)])
        assert np.array_equal(written.read_raw(name), expected.reshape(-1)), name
    assert written.metadata["quantize.imatrix.entries_count"] == 3
    assert written.metadata["quantize.imatrix.chunks_count"] == 8


def test_threads_and_slabs_change_nothing(model, tmp_path, monkeypatch):
    (one,) = export(model, tmp_path / "one")
    monkeypatch.setattr(bitclass3_gguf.plain, "_SLAB_WEIGHTS", 256 * 5)
    (two,) = export(model, tmp_path / "two", threads=2)
    assert one.read_bytes() == two.read_bytes()


def test_tensor_that_cannot_be_quantized_is_named(model, tmp_path):
    nothing = Sensitivity({}, "test", 0, 0, "")
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_q\.weight at IQ3_XXS: IQ3_XXS needs an imatrix"):
        export(model, tmp_path / "out", sensitivity=nothing)
    assert not list((tmp_path / "out").iterdir())


def test_nan_leaves_nothing_behind(tmp_path):
    bad = np.full(TENSORS["blk.0.attn_q.weight"][0], np.nan, np.float32)
    model = GgufModel(write_gguf(tmp_path / "source.gguf", values={"blk.0.attn_q.weight": bad}))
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_q\.weight at IQ3_XXS: tensor .* has NaN or Inf \(row 0"):
        export(model, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_room_is_checked_first(model, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 1000))
    with pytest.raises(Bitclass3Error, match=r"no room on disk for m-4\.80bpw\.gguf: it takes"):
        export(model, tmp_path / "out")


def test_demands_of_each_way_to_round() -> None:
    work, in_torch = Work({"w": TensorInfo("w", (10, 100), "BF16")}), 6 * 1000
    assert bitclass3_gguf.Options().demands(work) == Demands()
    feedback = bitclass3_gguf.Options(rounding="feedback", n_tokens=100, memory_gib=1).demands(work)
    assert feedback == Demands(2.5 * 6 * 100 * 1000, n_bytes=2 * 2**30 + in_torch)
    tuned = bitclass3_gguf.Options(tuning_steps=10, n_ctx=64).demands(work)
    assert tuned == Demands(8 * 640 * 1000, n_bytes=8000 + in_torch)

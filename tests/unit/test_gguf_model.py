"""A GGUF as a model: whole and split, memory-mapped, read by rows, fingerprinted."""

import mmap
import shutil

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from gguf_files import METADATA, TENSORS, heavy_tailed, weights, write_gguf, write_split

from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.model import GgufModel, quantized_share, split_files


@pytest.fixture
def path(tmp_path):
    return write_gguf(tmp_path / "tiny-bf16.gguf")


def test_tensors_in_file_order(path):
    model = GgufModel(path)
    assert {name: (info.shape, info.dtype) for name, info in model.tensors.items()} == TENSORS
    assert list(model.tensors) == list(TENSORS)
    experts = model.tensors["blk.0.ffn_up_exps.weight"]
    assert (experts.n_experts, experts.n_rows, experts.n_in, experts.role, experts.block) == (3, 24, 256, "ffn_up_exps", 0)


def test_metadata(path):
    found = GgufModel(path).metadata
    assert {key: found[key] for key in METADATA} == METADATA
    assert not [key for key in found if key.startswith("GGUF.")]


def test_long_lists_are_left_out_of_the_metadata_but_not_of_the_fields(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.tokens": [f"t{i}" for i in range(5000)]})
    model = GgufModel(path)
    assert "tokenizer.ggml.tokens" not in model.metadata
    assert len(model.fields["tokenizer.ggml.tokens"].data) == 5000


@pytest.mark.parametrize(
    ("file", "name"),
    [("Tiny-7B-bf16.gguf", "Tiny-7B"), ("tiny.F16.gguf", "tiny"), ("tiny.gguf", "tiny"), ("abf16.gguf", "abf16")],
)
def test_name_without_type(tmp_path, file, name):
    assert GgufModel(write_gguf(tmp_path / file)).name == name


def test_name_of_the_hf_folder(path, tmp_path):
    assert GgufModel(path, tmp_path / "Some-Model").name == "Some-Model"


def test_arch(path, tmp_path):
    assert GgufModel(path).arch == "llama"


@pytest.mark.parametrize("name", TENSORS)
def test_values(path, name):
    expected = weights()[name].reshape(-1, TENSORS[name][0][-1])
    if TENSORS[name][1] == "BF16":
        bf16 = GGMLQuantizationType.BF16
        expected = quants.dequantize(quants.quantize(expected, bf16), bf16)
    elif TENSORS[name][1] == "F16":
        expected = expected.astype(np.float16).astype(np.float32)
    found = GgufModel(path).read(name)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("rows", [slice(2, 5), slice(7, 8), np.array([0, 3, 3, 7]), slice(0, 0)], ids=str)
@pytest.mark.parametrize("name", ["blk.0.ffn_up_exps.weight", "blk.0.ffn_down.weight"])
def test_rows_are_those_of_the_whole(path, name, rows):
    model = GgufModel(path)
    assert np.array_equal(model.read(name, rows), model.read(name)[rows])


def test_quantized_source_is_read_through_ggml(tmp_path):
    model = GgufModel(write_gguf(tmp_path / "q.gguf", {"a.weight": ((4, 64), "Q8_0")}))
    expected = quants.dequantize(
        quants.quantize(weights({"a.weight": ((4, 64), "Q8_0")})["a.weight"], q8 := GGMLQuantizationType.Q8_0), q8
    )
    assert np.array_equal(model.read("a.weight"), expected)


def test_raw_bytes_are_a_view_of_the_memory_map(path):
    """Nothing is copied: the bytes come from the map's pages when they are touched, so other tensors are never loaded."""
    raw = GgufModel(path).read_raw("blk.0.attn_q.weight")
    base = raw
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert isinstance(base, mmap.mmap)
    assert not raw.flags.writeable
    assert raw.nbytes == 16 * 256 * 2


def test_raw_bytes_are_those_of_the_file(path):
    model = GgufModel(path)
    joined = b"".join(model.read_raw(name).tobytes() for name in model.tensors)
    assert path.read_bytes().endswith(joined)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_with_its_row(tmp_path, value):
    bad = heavy_tailed((16, 256))
    bad[11, 200] = value
    model = GgufModel(write_gguf(tmp_path / "m.gguf", values={"blk.1.attn_q.weight": bad}))
    with pytest.raises(ModelFileError, match=r"tensor blk\.1\.attn_q\.weight of m\.gguf has NaN or Inf \(row 11 of those read\)"):
        model.read("blk.1.attn_q.weight")
    assert np.isfinite(model.read("blk.1.attn_q.weight", slice(0, 11))).all()


def test_type_that_is_no_number(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": ((2, 32), "F32")})
    content = path.read_bytes()
    at = content.index(b"a.weight") + len(b"a.weight") + 4 + 16
    path.write_bytes(content[:at] + (26).to_bytes(4, "little") + content[at + 4 :])  # I32
    model = GgufModel(path)
    with pytest.raises(ModelFileError, match=r"tensor a\.weight of m\.gguf is I32, which cannot be read as numbers; give a BF16"):
        model.read("a.weight")


def test_split_files_are_one_model(tmp_path, path):
    parts, whole = write_split(tmp_path), GgufModel(path)
    for part in parts:
        model = GgufModel(part)
        assert model.files == parts
        assert model.tensors == whole.tensors
        assert model.name == "model"
        for name in whole.tensors:
            assert np.array_equal(model.read(name), whole.read(name))
    first = GgufModel(parts[0])
    assert first.metadata["general.name"] == "tiny"
    assert not [key for key in first.fields if key.startswith("split.")]


def test_missing_part_is_named(tmp_path):
    parts = write_split(tmp_path)
    parts[1].unlink()
    with pytest.raises(ModelFileError, match=r"lacks 1 of its 2 files \(model-00002-of-00002\.gguf\); put them all in"):
        split_files(parts[0])


def test_metadata_of_a_split_come_from_its_first_file(tmp_path):
    parts = write_split(tmp_path)
    assert GgufModel(parts[1]).metadata == GgufModel(parts[0]).metadata


def test_truncated_part_is_refused(tmp_path):
    parts = write_split(tmp_path)
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"00002-of-00002\.gguf is damaged or truncated"):
        GgufModel(parts[0])


def test_quantized_share(tmp_path):
    tensors = {"a.weight": ((4, 64), "BF16"), "b.weight": ((12, 64), "Q8_0")}
    assert quantized_share(GgufModel(write_gguf(tmp_path / "m.gguf", tensors))) == 0.75
    assert quantized_share(GgufModel(write_gguf(tmp_path / "n.gguf"))) == 0


def test_fingerprint_does_not_depend_on_the_path(path, tmp_path):
    other = tmp_path / "elsewhere" / "other.gguf"
    other.parent.mkdir()
    shutil.copy(path, other)
    assert GgufModel(other).fingerprint == GgufModel(path).fingerprint


@pytest.mark.parametrize("name", TENSORS)
def test_fingerprint_changes_with_a_weight(path, tmp_path, name):
    values = weights()[name].copy()
    values.reshape(-1)[-1] += 1
    other = write_gguf(tmp_path / "other.gguf", values={name: values})
    assert GgufModel(other).fingerprint != GgufModel(path).fingerprint


@pytest.mark.parametrize("row", [0, 32, 63])
def test_fingerprint_samples_both_ends_and_the_middle_of_a_large_tensor(tmp_path, row):
    large = {"a.weight": ((64, 2048), "BF16")}
    changed = weights(large)["a.weight"].copy()
    changed[row, 5] += 1
    one = write_gguf(tmp_path / "one.gguf", large)
    other = write_gguf(tmp_path / "other.gguf", large, {"a.weight": changed})
    assert GgufModel(one).fingerprint != GgufModel(other).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"llama.block_count": 3},
        {"general.name": "tinz"},
        {"tokenizer.ggml.tokens": ["<S>", "a", "bé", "日本"]},
        {"llama.extra": 1},
    ],
    ids=str,
)
def test_fingerprint_changes_with_a_metadata_value(path, tmp_path, change):
    other = write_gguf(tmp_path / "other.gguf", metadata={**METADATA, **change})
    assert GgufModel(other).fingerprint != GgufModel(path).fingerprint


def test_fingerprint_changes_with_the_first_token_of_a_long_list(tmp_path):
    tokens = [f"t{i}" for i in range(200)]
    one = write_gguf(tmp_path / "one.gguf", metadata={"tokenizer.ggml.tokens": tokens})
    other = write_gguf(tmp_path / "other.gguf", metadata={"tokenizer.ggml.tokens": ["T0", *tokens[1:]]})
    assert GgufModel(one).fingerprint != GgufModel(other).fingerprint

"""Powers: their file, their scores, and what is done for tensors without any."""

import numpy as np
import pytest
from gguf_files import memory_model
from safetensors.numpy import save_file

from bitclass3_core.errors import ModelFileError
from bitclass3_core.sensitivity import (
    Powers,
    Sensitivity,
    TensorSensitivity,
    fill_missing,
    load_sensitivity,
    save_sensitivity,
    with_columns,
)


def powers(n_in: int, n_rows: int | None = None, level: float = 1.0) -> Powers:
    return Powers(np.full(n_in, level, np.float32), None if n_rows is None else np.full(n_rows, level / 10, np.float32))


def sensitivity(**tensors: TensorSensitivity) -> Sensitivity:
    return Sensitivity({f"{name}.weight": tensor for name, tensor in tensors.items()}, "test", 4096, 512, "c0ffee", ("a note",))


def same(a: Powers | None, b: Powers | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.out_power is None or b.out_power is None:
        return a.out_power is b.out_power and np.array_equal(a.in_power, b.in_power)
    return np.array_equal(a.in_power, b.in_power) and np.array_equal(a.out_power, b.out_power)


def test_file_gives_back_what_was_saved(tmp_path):
    rng = np.random.default_rng(0)
    saved = sensitivity(
        token_embd=TensorSensitivity(Powers(rng.random(8, np.float32), rng.random(4, np.float32)), powers(8, 4, 3.0)),
        attn_q=TensorSensitivity(powers(8)),
        experts=TensorSensitivity(Powers(rng.random((3, 8), np.float32), rng.random(12, np.float32))),
        table=TensorSensitivity(lookup=powers(8, 4)),
    )
    save_sensitivity(saved, tmp_path / "s.safetensors")
    loaded = load_sensitivity(tmp_path / "s.safetensors")
    assert (loaded.estimator, loaded.n_tokens, loaded.n_ctx, loaded.corpus, loaded.notes) == (
        "test",
        4096,
        512,
        "c0ffee",
        ("a note",),
    )
    assert set(loaded.tensors) == set(saved.tensors)
    for name, tensor in saved.tensors.items():
        assert same(loaded.tensors[name].linear, tensor.linear), name
        assert same(loaded.tensors[name].lookup, tensor.lookup), name


def test_vectors_that_are_not_contiguous_are_saved_right(tmp_path):
    wide = np.arange(16, dtype=np.float64)
    save_sensitivity(sensitivity(a=TensorSensitivity(Powers(wide[::2]))), tmp_path / "s")
    assert np.array_equal(load_sensitivity(tmp_path / "s").tensors["a.weight"].imatrix, wide[::2])


@pytest.mark.parametrize("n_bytes", [0, 4, 8, 50, -1])
def test_damaged_file(tmp_path, n_bytes):
    path = tmp_path / "s.safetensors"
    save_sensitivity(sensitivity(a=TensorSensitivity(powers(8, 4))), path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ModelFileError, match=r"s\.safetensors is no sensitivity file of bitclass3 \(.*\); delete it and run again"):
        load_sensitivity(path)


@pytest.mark.parametrize(
    ("key", "metadata"),
    [
        ("model.embed_tokens.weight", None),
        ("a|linear|in_power", {"bitclass3": "{}"}),
        ("a|linear|in_power", {"bitclass3": "no json"}),
        ("a|linear|in_power", {"bitclass3": "[]"}),
        ("a.weight", {"bitclass3": "{}"}),
        ("a|sideways|in_power", {"bitclass3": "{}"}),
        ("a|linear|out_power", {"bitclass3": "{}"}),
    ],
)
def test_file_of_something_else(tmp_path, key, metadata):
    save_file({key: np.zeros(4, np.float32)}, tmp_path / "s", metadata=metadata)
    with pytest.raises(ModelFileError, match="is no sensitivity file of bitclass3"):
        load_sensitivity(tmp_path / "s")


def test_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match="is no sensitivity file of bitclass3"):
        load_sensitivity(tmp_path / "nothing")


def test_scores_are_means_and_the_largest_is_one():
    uneven = Powers(np.array([1, 3], np.float32))
    found = sensitivity(
        a=TensorSensitivity(powers(2, level=4.0)), b=TensorSensitivity(uneven), c=TensorSensitivity(lookup=powers(2))
    )
    assert found.scores() == {"a.weight": 1.0, "b.weight": 0.5}


def test_scores_of_nothing():
    assert sensitivity().scores() == {}
    assert sensitivity(a=TensorSensitivity(powers(4, level=0.0))).scores() == {"a.weight": 0.0}


def test_costs_are_in_nats_only_if_every_role_has_out_power():
    linear, lookup = powers(4, 2), powers(4, 2)
    assert sensitivity(a=TensorSensitivity(linear, lookup)).in_nats
    assert not sensitivity(a=TensorSensitivity(linear, powers(4))).in_nats
    assert not sensitivity(a=TensorSensitivity(linear), b=TensorSensitivity(powers(4))).in_nats


def test_imatrix_is_the_linear_s_where_there_are_both():
    tied = TensorSensitivity(powers(4, 2, 1.0), powers(4, 2, 2.0))
    assert len(tied.roles) == 2
    assert tied.imatrix[0] == 1.0
    assert TensorSensitivity(lookup=powers(4, 2, 2.0)).imatrix[0] == 2.0


def blocks(n: int, **more):
    return memory_model(**{f"blk__{i}__attn_q": (4, 32) for i in range(n)}, **more)


def attn_q(i: int) -> str:
    return f"blk.{i}.attn_q.weight"


def test_missing_tensor_gets_the_mean_of_its_two_nearest():
    model = blocks(6)
    known = {attn_q(i): TensorSensitivity(powers(32, 4, float(i))) for i in (0, 2, 3, 5)}
    filled, notes = fill_missing(model, frozenset(model.tensors), known)
    assert set(filled) == set(model.tensors)
    assert (filled[attn_q(1)].linear.in_power == 1.0).all()  # of 0 and 2
    assert np.allclose(filled[attn_q(4)].linear.out_power, 0.4)  # of 3 and 5
    assert filled[attn_q(2)] is known[attn_q(2)]
    assert notes == (f"2 tensors have no statistics of their own and got their neighbours' mean: {attn_q(1)}, {attn_q(4)}",)


def test_nothing_missing_needs_no_note():
    model = blocks(2)
    known = {name: TensorSensitivity(powers(32)) for name in model.tensors}
    assert fill_missing(model, frozenset(model.tensors), known) == (known, ())


def test_tensor_without_a_neighbour_gets_the_model_s_level():
    model = blocks(1, output=(8, 32), blk__0__ffn_up=(4, 64))
    known = {attn_q(0): TensorSensitivity(powers(32, 4, 2.0))}
    filled, _ = fill_missing(model, frozenset(model.tensors), known)
    up = filled["blk.0.ffn_up.weight"].linear
    assert (up.in_power.shape, up.out_power.shape) == ((64,), (4,))
    assert (up.in_power == 2.0).all()
    assert np.allclose(up.out_power, 0.2)


def test_embedding_counts_its_rows_alike():
    model = blocks(1, token_embd=(8, 32))
    filled, _ = fill_missing(model, frozenset(model.tensors), {attn_q(0): TensorSensitivity(powers(32, 4, 2.0))})
    table = filled["token_embd.weight"]
    assert table.linear is None
    assert np.allclose(table.lookup.out_power, 1 / 8)
    assert np.allclose(table.lookup.in_power, 0.2)


def test_without_any_statistics_everything_is_one():
    model = blocks(2)
    filled, notes = fill_missing(model, frozenset(model.tensors), {})
    assert all((tensor.linear.in_power == 1).all() and tensor.linear.out_power is None for tensor in filled.values())
    assert "2 tensors have no statistics" in notes[0]


def test_many_missing_tensors_are_counted():
    model = blocks(9)
    _, notes = fill_missing(model, frozenset(model.tensors), {attn_q(0): TensorSensitivity(powers(32))})
    assert notes[0].endswith(f"{attn_q(6)} and 2 more")


def test_neighbours_of_which_one_has_powers_by_expert():
    """A stack that no token reached has one vector, the one beside it one for each expert."""
    model = memory_model(**{f"blk__{i}__ffn_up_exps": (3, 4, 32) for i in range(3)})
    by_expert = np.arange(1, 4, dtype=np.float32)[:, None] * np.ones((3, 32), np.float32)
    known = {
        "blk.0.ffn_up_exps.weight": TensorSensitivity(powers(32)),
        "blk.2.ffn_up_exps.weight": TensorSensitivity(Powers(by_expert)),
    }
    filled, _ = fill_missing(model, frozenset(model.tensors), known)
    assert np.array_equal(filled["blk.1.ffn_up_exps.weight"].linear.in_power, (by_expert + 1) / 2)


def test_imatrix_of_other_text_guides_the_kernels_and_nothing_else(tmp_path):
    own = sensitivity(attn_q=TensorSensitivity(powers(8, 4)), token_embd=TensorSensitivity(lookup=powers(8, 4)))
    other = sensitivity(attn_q=TensorSensitivity(powers(8, level=7.0)), token_embd=TensorSensitivity(lookup=powers(8, level=7.0)))
    path = tmp_path / "s.safetensors"
    save_sensitivity(with_columns(own, other), path)
    merged = load_sensitivity(path).tensors
    assert (merged["attn_q.weight"].imatrix == 7.0).all()
    assert same(merged["attn_q.weight"].linear, own.tensors["attn_q.weight"].linear)
    assert (merged["token_embd.weight"].imatrix == 1.0).all(), "what is looked up keeps the frequencies of its own text"

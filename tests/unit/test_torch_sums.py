"""Sums that the two vectors are made of: chunk by chunk, on the CPU, whatever the block size."""

import numpy as np
import pytest
import torch
from bitclass3_torch import sums
from bitclass3_torch.embedding_powers import Embedding
from bitclass3_torch.sums import WeightGradients


def test_margins_of_weight_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    chunks = [(torch.randn(1, 9, 7, generator=generator), torch.randn(1, 9, 5, generator=generator)) for _ in range(3)]
    squares = sum((g[0].double().T @ x[0].double()).square() for g, x in chunks)
    for block in (1 << 25, 10):  # whole, and two rows at a time
        monkeypatch.setattr(sums, "_BLOCK_WEIGHTS", block)
        found = WeightGradients[str]()
        for g, x in chunks:
            found.add("w", g, x)
        np.testing.assert_allclose(found.rows["w"], squares.sum(1).numpy(), rtol=1e-5)
        np.testing.assert_allclose(found.columns["w"], squares.sum(0).numpy(), rtol=1e-5)


def test_half_precision_does_not_overflow() -> None:
    found = WeightGradients[str]()
    found.add("w", torch.full((4, 2), 3e4, dtype=torch.float16), torch.full((4, 3), 3e4, dtype=torch.float16))
    assert np.isfinite(found.rows["w"]).all()
    assert found.rows["w"][0] == pytest.approx(3 * (4 * 9e8) ** 2, rel=1e-2)


def test_rows_of_an_embedding_count_as_often_as_they_are_looked_up() -> None:
    table = torch.ones(6, 2)
    table[5] = 0
    embedding = Embedding(table)
    embedding.add(np.array([1, 1, 2, 5]), None)
    embedding.add(np.array([1, 3, 5, 5]), None)
    powers = embedding.powers(8)
    assert powers.in_power.tolist() == [1, 1]
    assert powers.out_power is not None
    np.testing.assert_allclose(powers.out_power, [0, 3 / 5, 1 / 5, 1 / 5, 0, 0], rtol=1e-6)


def test_gradients_of_one_row_add_up_within_a_chunk() -> None:
    embedding = Embedding(torch.ones(4, 2))
    embedding.add(np.array([1, 1, 2]), torch.tensor([[1.0, 0], [1, 2], [0, 3]]))
    embedding.add(np.array([1, 0, 0]), torch.tensor([[1.0, 0], [5, 0], [-5, 0]]))
    powers = embedding.powers(6)
    assert powers.out_power is not None
    # rows: token 1 has (1 + 1, 2) in the first chunk and (1, 0) in the second, token 2 (0, 3), what token 0 got cancels out
    np.testing.assert_allclose(powers.in_power, np.array([4 + 1, 4 + 9]) / 6)
    np.testing.assert_allclose(powers.out_power, np.array([0, 8 + 1, 9, 0]) / 18, rtol=1e-6)

"""Where a ggml tensor lies in an HF parameter: read, written and weighted."""

import numpy as np
import pytest
import torch
from bitclass3_torch.places import AxisPowers, TorchPlace

from bitclass3_core.model import Place

RNG = np.random.default_rng(0)


def placed(values: np.ndarray, cut: Place) -> TorchPlace:
    return TorchPlace("key", None, torch.nn.Parameter(torch.from_numpy(values.astype(np.float32))), cut)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


STACK, MATRIX = random(3, 8, 6), random(12, 6)
ORDER = np.array([5, 0, 3, 1, 4, 2])
# (parameter, cut, what it cuts out by numpy alone)
CUTS: list[tuple[np.ndarray, Place, np.ndarray]] = [
    (MATRIX, Place(("w",)), MATRIX),
    (MATRIX, Place(("w",), transposed=True), MATRIX.T),
    (MATRIX, Place(("w",), rows=slice(4, None), columns=ORDER), MATRIX[4:][:, ORDER]),
    (
        MATRIX,
        Place(("w",), rows=np.array([7, 2, 11]), scale=np.array([2, 0.5, 4], np.float32)),
        MATRIX[[7, 2, 11]] * [[2], [0.5], [4]],
    ),
    (MATRIX, Place(("w",), scale=0.25), MATRIX / 4),
    (STACK, Place(("w",)), STACK),
    (STACK, Place(("w",), rows=slice(4, None)), STACK[:, 4:]),
    (STACK, Place(("w",), transposed=True, rows=slice(1, None, 2)), STACK.swapaxes(1, 2)[:, 1::2]),
    (MATRIX, Place(("w",), shape=(3, 4, 6), rows=slice(1, None)), MATRIX.reshape(3, 4, 6)[:, 1:]),
    (MATRIX, Place(("w",), shape=(3, 4, 6), transposed=True, columns=slice(0, 3)), MATRIX.reshape(3, 4, 6)[:, :3].swapaxes(1, 2)),
]


@pytest.mark.parametrize(("parameter", "cut", "expected"), CUTS)
def test_read(parameter: np.ndarray, cut: Place, expected: np.ndarray) -> None:
    place = placed(parameter, cut)
    rows = np.arange(expected.size // expected.shape[-1])[::-1]
    assert place.shape == expected.shape
    np.testing.assert_array_equal(place.read(rows), expected.reshape(-1, expected.shape[-1])[::-1])


@pytest.mark.parametrize(("parameter", "cut", "expected"), CUTS)
def test_what_is_written_is_read_again_and_nothing_else_changes(parameter: np.ndarray, cut: Place, expected: np.ndarray) -> None:
    place = placed(parameter, cut)
    rows = expected.reshape(-1, expected.shape[-1])
    place.write(8 * rows)
    np.testing.assert_array_equal(place.read(np.arange(len(rows))), 8 * rows)
    changed = place.parameter.detach().numpy() != parameter
    assert changed.sum() == rows.size
    place.write(rows)
    np.testing.assert_array_equal(place.parameter.detach().numpy(), parameter)


def test_one_expert_is_written_into_its_own_matrix() -> None:
    place = placed(STACK, Place(("w",), rows=slice(0, 4)))
    new = random(4, 6)
    place.write(new, 2)
    np.testing.assert_array_equal(place.parameter.detach().numpy()[2, :4], new)
    np.testing.assert_array_equal(place.parameter.detach().numpy()[:2], STACK[:2])


@pytest.mark.parametrize("inputs_last", [True, False])
@pytest.mark.parametrize(("parameter", "cut", "expected"), CUTS)
def test_powers_weight_each_element_as_in_the_parameter(
    parameter: np.ndarray, cut: Place, expected: np.ndarray, inputs_last: bool
) -> None:
    """out_power_i * in_power_j of the tensor is the parameter's product at the same element, over the square of the scale."""
    last, other = np.abs(random(*parameter.shape[:-2], parameter.shape[-1])), np.abs(random(*parameter.shape[:-1]))
    last, other = np.atleast_2d(last), np.atleast_2d(other)
    fisher = (other[:, :, None] * last[:, None, :]).reshape(parameter.shape)
    inputs, outputs = (last, other) if inputs_last else (other, last)
    powers = placed(parameter, cut).powers(AxisPowers(inputs, outputs, inputs_last))
    rows = np.arange(expected.size // expected.shape[-1])
    unscaled = placed(fisher, Place(cut.stems, cut.shape, cut.transposed, cut.rows, cut.columns)).read(rows)
    scale = np.broadcast_to(np.asarray(cut.scale, np.float32), (len(rows),))[:, None]
    assert powers.out_power is not None
    in_power = np.repeat(np.atleast_2d(powers.in_power), len(rows) // len(np.atleast_2d(powers.in_power)), axis=0)
    np.testing.assert_allclose(powers.out_power[:, None] * in_power, unscaled / scale**2, rtol=1e-5)


def test_columns_that_are_outputs_get_the_level_of_the_inputs() -> None:
    """Latent attention's keys: the GGUF multiplies them from the other side."""
    inputs, outputs = np.full((1, 6), 4.0, np.float32), np.abs(random(1, 12)) * 1e-6
    place = placed(MATRIX, Place(("w",), shape=(3, 4, 6), transposed=True, columns=slice(0, 3)))
    assert place.powers(AxisPowers(inputs, outputs)).in_power.mean() == pytest.approx(4, rel=0.7)
    without = place.powers(AxisPowers(inputs, None))
    assert without.out_power is None
    np.testing.assert_array_equal(without.in_power, np.full(3, 4))

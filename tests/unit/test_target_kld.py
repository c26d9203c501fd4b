"""Searching the smallest size within a target KLD, on curves that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bitclass3_core.evaluation import summarize
from bitclass3_core.runs.target_kld import MAX_MEASUREMENTS, Search, upper_kld


def curve(scale: float, bits: float = 2.0):
    return lambda step: scale * 2.0 ** (-bits * step / 100)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.4, 3.0, 9.0])
@pytest.mark.parametrize("target", [0.2, 0.03, 0.004])
def test_finds_the_smallest_size_in_few_measurements(ratio, target):
    measured = curve(ratio * 4.0)
    search = Search(target, 200, 900, curve(4.0), measured)
    answer = search.run()
    best = next(step for step in range(200, 901) if measured(step) <= target)
    assert best <= answer <= best + round(0.004 * best) + 1
    assert measured(answer) <= target
    assert len(search.tried) <= 6


def test_ratio_that_changes_along_the_curve():
    """Coarse types cost more than is predicted: the ratio rises from 1.2 to 4 as bits fall."""

    def measured(step: int) -> float:
        return curve(4.0)(step) * (1.2 + 2.8 * max(0, 500 - step) / 300)

    search = Search(0.05, 200, 900, curve(4.0), measured)
    answer = search.run()
    best = next(step for step in range(200, 901) if measured(step) <= 0.05)
    assert best <= answer <= best + 3
    assert len(search.tried) <= MAX_MEASUREMENTS


def test_noisy_measurements_still_give_a_size_that_was_measured_to_pass():
    rng = np.random.default_rng(0)
    noise = {step: rng.lognormal(0, 0.05) for step in range(200, 901)}
    search = Search(0.03, 200, 900, curve(4.0), lambda step: curve(6.0)(step) * noise[step])
    answer = search.run()
    assert search.tried[answer] <= 0.03
    assert all(value > 0.03 for step, value in search.tried.items() if step < answer)


def test_no_size_reaches_it():
    search = Search(1e-9, 200, 900, curve(4.0), curve(4.0))
    assert search.run() is None
    assert 900 in search.tried


def test_even_the_smallest_is_within():
    search = Search(10.0, 200, 900, curve(4.0), curve(4.0))
    assert search.run() == 200
    assert list(search.tried) == [200]


def test_prediction_of_nothing():
    """A floor that prediction does not know: what llama.cpp's rounding of activations costs, say."""
    search = Search(0.01, 200, 900, lambda step: 0.0, lambda step: 1.0 if step < 700 else 0.005)
    answer = search.run()
    assert answer is not None
    assert answer >= 700


def test_upper_bound_is_one_sided_95_percent():
    kld = np.full(64, 0.5, np.float32)
    zeros = np.zeros(64)
    figures = summarize("c", kld, zeros > 1, zeros, zeros, np.full(64, "d"), 16, "test")
    assert upper_kld(replace(figures, mean_kld=0.02, se_kld=0.001)) == pytest.approx(0.02 + 1.645 * 0.001)
    assert upper_kld(replace(figures, mean_kld=0.02, se_kld=math.nan)) == 0.02

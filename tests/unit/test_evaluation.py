"""The figures of an evaluation, against numpy."""

import json

import numpy as np
import pytest

from bitclass3_core.evaluation import MIN_CHUNKS, paired_difference, standard_error, summarize

N_CHUNKS, N_TOKENS = 10, 500
RNG = np.random.default_rng(0)
KLD = RNG.gamma(0.3, 0.1, N_TOKENS).astype(np.float32)
SAME = RNG.random(N_TOKENS) < 0.9
NLL, REFERENCE_NLL = RNG.normal(3.0, 1.0, (2, N_TOKENS))
DOMAINS = np.array(["code", "wiki"] * (N_TOKENS // 2))


def evaluation(kld=KLD, n_chunks=N_CHUNKS, candidate="a"):
    n = len(kld)
    return summarize(candidate, kld, SAME[:n], NLL[:n], REFERENCE_NLL[:n], DOMAINS[:n], n_chunks, "test")


def by_chunks(values):
    means = values.reshape(N_CHUNKS, -1).astype(np.float64).mean(axis=1)
    return means.std(ddof=1) / np.sqrt(N_CHUNKS)


def test_figures():
    found = evaluation()
    assert (found.candidate, found.n_tokens, found.n_chunks, found.evaluator) == ("a", N_TOKENS, N_CHUNKS, "test")
    expected = {
        "mean_kld": KLD.astype(np.float64).mean(),
        "se_kld": by_chunks(KLD),
        "median_kld": np.median(KLD),
        "p99_kld": np.percentile(KLD, 99),
        "p999_kld": np.percentile(KLD, 99.9),
        "same_top1": SAME.mean(),
        "se_same_top1": by_chunks(SAME),
        "ppl": np.exp(NLL.mean()),
        "se_ppl": np.exp(NLL.mean()) * by_chunks(NLL),
        "reference_ppl": np.exp(REFERENCE_NLL.mean()),
        "se_reference_ppl": np.exp(REFERENCE_NLL.mean()) * by_chunks(REFERENCE_NLL),
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found.domains == pytest.approx({"code": KLD[::2].mean(), "wiki": KLD[1::2].mean()})
    np.testing.assert_array_equal(found.token_kld, KLD)


def test_standard_error_is_between_chunks():
    """Tokens that are alike within their chunk: independent tokens would say far too little."""
    values = np.repeat(RNG.random(MIN_CHUNKS), 100)
    assert standard_error(values, MIN_CHUNKS) == pytest.approx(values[::100].std(ddof=1) / np.sqrt(MIN_CHUNKS))
    assert standard_error(values, MIN_CHUNKS) > 5 * standard_error(values, 1)


@pytest.mark.parametrize("n_chunks", [1, MIN_CHUNKS - 1, 11])
def test_standard_error_of_too_few_or_unequal_chunks_is_that_of_tokens(n_chunks):
    assert standard_error(NLL, n_chunks) == pytest.approx(NLL.std(ddof=1) / np.sqrt(N_TOKENS))


def test_standard_error_of_one_token():
    assert np.isnan(standard_error(np.ones(1), 1))


def test_paired_difference():
    better = (KLD * 0.8).astype(np.float32)
    mean, se = paired_difference(evaluation(better), evaluation())
    difference = better.astype(np.float64) - KLD.astype(np.float64)
    assert mean == pytest.approx(difference.mean())
    assert se == pytest.approx(by_chunks(difference))
    assert mean < 0
    assert se < evaluation().se_kld
    assert paired_difference(evaluation(), evaluation()) == (0.0, 0.0)


def test_no_paired_difference_of_other_tokens():
    other = evaluation(KLD[:250], 5)
    assert paired_difference(evaluation(), other) is None
    assert paired_difference(evaluation(), evaluation(n_chunks=5)) is None


def test_no_paired_difference_without_tokens():
    from dataclasses import replace

    without = replace(evaluation(), token_kld=None)
    assert paired_difference(evaluation(), without) is None
    assert paired_difference(without, evaluation()) is None


def test_json_has_all_figures_but_the_tokens():
    found = json.loads(json.dumps(evaluation().to_json()))
    assert "token_kld" not in found
    assert found["mean_kld"] == pytest.approx(evaluation().mean_kld)
    assert set(found["domains"]) == {"code", "wiki"}

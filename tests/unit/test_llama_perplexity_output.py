"""What llama-perplexity prints, as figures with errors: a recorded run, and made-up runs whose answer is known."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bitclass3_llama_perplexity.output import as_evaluation, group_means, parse
from perplexity_runs import N_SCORED, RECORDED, made_up, table

from bitclass3_core.errors import ToolchainError
from bitclass3_core.evaluation import Evaluation, group_bounds, grouped_error, paired_difference
from bitclass3_core.runs.candidates import load_evaluation, save_evaluation


def recorded() -> Evaluation:
    return as_evaluation(parse(RECORDED, "a.gguf"), "a", 10, N_SCORED, "llama-perplexity")


def evaluation_of(values: dict[str, np.ndarray], name: str = "a", evaluator: str = "llama-perplexity") -> Evaluation:
    n_chunks = len(values["kld"])
    return as_evaluation(parse(table(**values), name), name, n_chunks, N_SCORED, evaluator)


def by_groups(values: np.ndarray) -> float:
    bounds = group_bounds(len(values))
    means = np.array([values[a:b].mean() for a, b in pairwise(bounds)])
    return grouped_error(means, len(values))


def test_recorded_figures() -> None:
    found = recorded()
    expected = {
        "n_tokens": 2550,
        "n_chunks": 10,
        "mean_kld": 0.005591,
        "median_kld": 0.003631,
        "p99_kld": 0.035044,
        "p999_kld": 0.060555,
        "same_top1": 0.95725,
        "ppl": 9.666114,
        "reference_ppl": 9.624131,
        "ln_ppl_ratio": 0.004353,
        "rms_dp": 0.0211,
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)


def test_every_printed_figure_is_kept_with_its_error() -> None:
    figures = recorded().figures
    printed = [line for line in RECORDED[RECORDED.index("=====") :].splitlines() if ":" in line]
    assert len(figures) == len(printed) == 34
    expected = {
        "Mean PPL(Q)": (9.666114, 0.508070),
        "Mean PPL(base)": (9.624131, 0.506831),
        "Correlation of ln(PPL(Q)) and ln(PPL(base))": (0.9991, None),
        "Mean ln(PPL(Q)/PPL(base))": (0.004353, 0.002268),
        "Mean PPL(Q)/PPL(base)": (1.004362, 0.002278),
        "Mean PPL(Q)-PPL(base)": (0.041984, 0.021885),
        "Mean KLD": (0.005591, 0.000137),
        "Maximum KLD": (0.074144, None),
        "95.0% KLD": (0.017968, None),
        "90.0% KLD": (0.012519, None),
        "0.1% KLD": (0.000004, None),
        "Minimum KLD": (-0.000002, None),
        "Mean Δp": (-0.0016, 0.00042),
        "75.0% Δp": (0.00256, None),
        "Minimum Δp": (-0.14651, None),
        "RMS Δp": (0.0211, 0.00075),
        "Same top p": (0.95725, 0.00401),
    }
    for name, (value, error) in expected.items():
        assert figures[name][0] == pytest.approx(value), name
        assert figures[name][1] == (None if error is None else pytest.approx(error)), name


def test_recorded_error_is_between_chunks() -> None:
    """By hand from the recorded table: chunk n's mean is n times the n-th running mean less n - 1 times the one before."""
    running = [0.00532, 0.00573, 0.00585, 0.00580, 0.00576, 0.00571, 0.00589, 0.00581, 0.00553, 0.005591]
    means = [n * running[n - 1] - (n - 1) * (running[n - 2] if n > 1 else 0) for n in range(1, 11)]
    assert recorded().group_kld == pytest.approx(means)
    assert recorded().se_kld == pytest.approx(np.std(means, ddof=1) / np.sqrt(10))
    assert recorded().se_kld > 2 * 0.000137, "chunks of this text differ by more than independent tokens would"


@pytest.mark.parametrize("n_chunks", [8, 16, 37, 200])
def test_errors_are_those_of_the_tokens(n_chunks: int) -> None:
    values = made_up(n_chunks)
    found = evaluation_of(values)
    rounding = 1.2e-5
    assert found.mean_kld == pytest.approx(values["kld"].mean(), abs=1e-6)
    assert found.se_kld == pytest.approx(by_groups(values["kld"]), rel=0.02, abs=rounding)
    assert found.se_ln_ppl_ratio == pytest.approx(by_groups(values["ln_ratio"]), rel=0.02, abs=rounding)
    assert found.se_same_top1 == pytest.approx(by_groups(values["same"]), rel=0.02, abs=rounding)
    nll = values["ln_base"] + values["ln_ratio"]
    assert found.se_ppl == pytest.approx(np.exp(nll.mean()) * by_groups(nll), rel=0.01)
    assert found.se_reference_ppl == pytest.approx(np.exp(values["ln_base"].mean()) * by_groups(values["ln_base"]), rel=0.01)
    rms = np.sqrt((values["dp"] ** 2).mean())
    assert found.rms_dp == pytest.approx(rms, abs=1e-5)
    assert found.se_rms_dp == pytest.approx(by_groups(values["dp"] ** 2) / (2 * rms), rel=0.05)


def test_rounding_of_the_table_adds_little_to_the_error_of_many_chunks() -> None:
    """Equal chunks: what is left of the error is the rounding of running means alone."""
    values = {**made_up(1000), "kld": np.full((1000, N_SCORED), 0.0123456)}
    assert evaluation_of(values).se_kld < 2e-5


def test_too_few_chunks_have_the_error_of_independent_tokens() -> None:
    lines = RECORDED.splitlines()
    found = as_evaluation(parse("\n".join(lines[:10] + lines[-40:]), "a"), "a", 5, N_SCORED, "")
    assert (found.se_kld, found.se_ppl, found.group_kld) == (0.000137, 0.508070, ())


def test_a_table_of_another_layout_leaves_llama_cpps_own_errors() -> None:
    found = as_evaluation(parse(RECORDED[RECORDED.index("=====") :], "a"), "a", 10, N_SCORED, "")
    assert (found.se_kld, found.se_same_top1, found.group_kld) == (0.000137, pytest.approx(0.00401), ())


def test_group_means_of_fewer_groups_than_chunks() -> None:
    chunks = np.random.default_rng(0).random(50)
    bounds = group_bounds(50)
    assert len(bounds) == 17
    assert set(np.diff(bounds)) == {3, 4}
    running = chunks.cumsum() / np.arange(1, 51)
    expected = [chunks[a:b].mean() for a, b in pairwise(bounds)]
    np.testing.assert_allclose(group_means(running), expected)


def test_paired_difference_of_two_candidates() -> None:
    worse = made_up(48)
    better = {**worse, "kld": worse["kld"] * 0.8}
    a, b = evaluation_of(better), evaluation_of(worse, "b")
    mean, error = paired_difference(a, b)
    difference = better["kld"] - worse["kld"]
    assert mean == pytest.approx(difference.mean(), abs=2e-6)
    assert error == pytest.approx(by_groups(difference), rel=0.05, abs=2e-5)
    assert error < a.se_kld / 2
    assert paired_difference(a, a) == (0.0, 0.0)


def test_no_paired_difference_of_other_chunks_or_another_evaluator() -> None:
    a = evaluation_of(made_up(48))
    assert paired_difference(a, evaluation_of(made_up(32))) is None
    assert paired_difference(a, evaluation_of(made_up(48), evaluator="llama-perplexity 2")) is None
    tokens = Evaluation("t", 48 * N_SCORED, 48, *[0.1] * 11, token_kld=np.ones(48 * N_SCORED, np.float32))
    assert paired_difference(a, tokens) is None
    assert paired_difference(tokens, a) is None


def test_same_model_has_no_negative_kld_and_no_error_that_is_no_number() -> None:
    text = RECORDED.replace("Mean    KLD:   0.005591 ±   0.000137", "Mean    KLD:  -0.000002 ±   0.000000")
    text = text.replace("0.004353 ±   0.002268", "-0.000000 ±       -nan")
    found = as_evaluation(parse(text, "a"), "a", 10, N_SCORED, "")
    assert found.mean_kld == 0.0
    assert found.figures["Mean KLD"] == (-0.000002, 0.0)
    assert found.figures["Mean ln(PPL(Q)/PPL(base))"] == (0.0, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = recorded()
    save_evaluation(found, tmp_path / "a.npz")
    loaded = load_evaluation(tmp_path / "a.npz")
    assert json.dumps(loaded.to_json()) == json.dumps(found.to_json())
    assert paired_difference(loaded, found) == (0.0, 0.0)


def test_evaluations_saved_before_these_figures_were_known_still_load(tmp_path: Path) -> None:
    old = {"candidate": "a", "n_tokens": 4, "n_chunks": 2, "mean_kld": 0.1, "se_kld": 0.01, "median_kld": 0.1, "p99_kld": 0.2}
    old |= {"p999_kld": 0.3, "same_top1": 0.9, "se_same_top1": 0.01, "ppl": 9.0, "se_ppl": 0.1, "reference_ppl": 8.9}
    old |= {"se_reference_ppl": 0.1, "domains": {"wiki": 0.1}, "evaluator": "torch"}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, figures=np.array(json.dumps(old)), token_kld=np.ones(4, np.float32))
    (tmp_path / "old.npz").write_bytes(buffer.getvalue())
    loaded = load_evaluation(tmp_path / "old.npz")
    assert (loaded.mean_kld, loaded.rms_dp, loaded.figures, loaded.group_kld) == (0.1, None, {}, ())


def test_no_statistics_is_an_error_with_the_last_lines() -> None:
    output = RECORDED[: RECORDED.index("   5  ")] + "0.00.548.886 E kl_divergence: failed reading log-probs for chunk 4\n\n"
    with pytest.raises(
        ToolchainError, match=r"^llama-perplexity measured nothing of a\.gguf; its last lines: .*failed reading log-probs"
    ):
        parse(output, "a.gguf")


def test_a_figure_that_is_missing() -> None:
    with pytest.raises(ToolchainError, match=r"printed no 'RMS Δp' for a\.gguf: its llama\.cpp is too old"):
        parse(RECORDED.replace("RMS Δp", "RMS dp"), "a.gguf")

"""A finished run as values for scripts, and in one sentence."""

import json
from dataclasses import replace

import pytest
from fake_runs import STOCK, make_run
from run_fixtures import HOOKS, MATRICES, SmallRun

from bitclass3_core.runs.summary import summary, verdict

BROKEN = f"{HOOKS}\n@hookimpl\ndef bitclass3_report(out):\n    raise ValueError('no ink')\n"
GUESS = f"""{HOOKS}
from bitclass3_core.problem import allocation_of

@hookimpl
def bitclass3_solve(problem):
    return allocation_of(problem, [0 for _ in problem.groups], "guess")
"""


def summarized(small: SmallRun, until: str, *settings: str) -> dict:
    pipeline = small.pipeline(*settings)
    pipeline.run(until)
    return json.loads(json.dumps(summary(pipeline, until)))


@pytest.mark.parametrize(
    ("until", "keys"),
    [
        ("estimate", set()),
        ("measure", set()),
        ("solve", {"allocation", "predicted_cost", "proof"}),
        ("export", {"allocation", "predicted_cost", "proof"}),
        ("evaluate", {"allocation", "predicted_cost", "proof", "candidates", "paired_differences"}),
    ],
)
def test_summary_says_as_much_as_the_stages_can_tell(small, until, keys):
    values = summarized(small, until)
    assert set(values) == {"out", "timings", "warnings", *keys}
    assert values["out"] == str(small.out)


def test_values_are_those_of_the_files(small):
    values = summarized(small, "evaluate", "baseline.plugin=stock")
    assert list(values["allocation"]) == MATRICES
    assert values["proof"]["optimal"] is True
    ours, stock = values["candidates"]
    assert (ours["kind"], stock["kind"]) == ("ours", "stock")
    assert ours["file_bytes"] == (small.out / f"{ours['name']}.gguf").stat().st_size
    assert ours["evaluation"]["mean_kld"] - stock["evaluation"]["mean_kld"] == pytest.approx(
        values["paired_differences"][stock["name"]]["mean"], rel=1e-3
    )


def test_solver_without_a_proof_has_none(small):
    assert summarized(small, "solve", f"solve.plugin={small.plugin('guess', GUESS)!r}")["proof"] is None


def test_plugins_that_failed_are_named_with_their_error(small):
    broken = small.plugin("broken", BROKEN)
    values = summarized(small, "report", f"report.plugin=[{broken!r}]")
    assert list(values["failed"]) == [broken]
    assert "ValueError: no ink" in values["failed"][broken]


def test_verdict_tells_size_and_divergence():
    run = make_run(0.01, 0.02)
    assert verdict(run) == (
        f"ours is 12,345 bytes smaller than {STOCK} and its mean KLD is -50.0% (paired difference -0.0100 ± 0.0004)"
    )


def test_verdict_claims_nothing_within_the_error():
    run = make_run(0.0100, 0.0105)
    assert verdict(run).endswith("(paired difference -0.0005 ± 0.0004, within twice the error: no difference shown)")


@pytest.mark.parametrize(
    ("more", "words"),
    [(0, "the same size as"), (1000, "1,000 bytes larger than"), (-1000, "1,000 bytes smaller than")],
)
def test_verdict_names_the_sizes(more, words):
    run = make_run()
    ours, stock = run.candidates
    ours = replace(ours, file_bytes=stock.file_bytes + more)
    assert f"ours is {words} {STOCK}" in verdict(replace(run, candidates=(ours, stock)))


def test_verdict_needs_a_stock_mix_that_was_measured():
    run, nothing = make_run(), "no stock mix was measured beside it"
    ours, stock = run.candidates
    for other in (
        replace(run, candidates=(ours,)),
        replace(run, differences={}),
        replace(run, candidates=(ours, replace(stock, kind="ours"))),
        replace(run, candidates=(ours, replace(stock, evaluation=None))),
        replace(run, candidates=(replace(ours, evaluation=None), stock)),
    ):
        assert verdict(other) == nothing

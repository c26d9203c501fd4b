"""The size that keeps a target KLD, found on a small model whose divergence is made up."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_runs import evaluation
from run_fixtures import SmallRun

from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.run_config import BudgetSection
from bitclass3_core.runs.target_kld import MAX_MEASUREMENTS, check_asked, find_budget, upper_kld


class Measured:
    """The divergence of a file of that many bits per weight, and the sizes that were asked for."""

    def __init__(self, mean_kld: Callable[[float], float], se_kld: float = 0.0) -> None:
        self.mean_kld, self.se_kld = mean_kld, se_kld
        self.asked: list[float] = []

    def __call__(self, budget: BudgetSection) -> object:
        self.asked.append(budget.options["target_bpw"])
        return replace(evaluation("x", 0.1), mean_kld=self.mean_kld(self.asked[-1]), se_kld=self.se_kld)


def halved_each_bit(bits: float) -> float:
    return 0.5**bits


def found(small: SmallRun, target: float, measure: Measured) -> float:
    budget = find_budget(small.solution(), target, measure)
    assert (budget.plugin, budget.target_kld, budget.level) == ("fixed", None, None)
    return budget.options["target_bpw"]


def test_size_is_the_smallest_that_keeps_the_target(small):
    measure = Measured(halved_each_bit)
    size = found(small, 0.5**6, measure)
    assert size == pytest.approx(6.0, abs=0.03)
    assert size >= 6.0
    assert size in measure.asked, "the answer was measured"
    assert len(measure.asked) == len(set(measure.asked)) <= MAX_MEASUREMENTS
    assert small.progress.said[-1].startswith(f"target KLD 0.015625: {size:.2f} bits per weight, at most 0.01")


def test_error_of_what_was_measured_counts_against_the_target(small):
    sure, unsure = (found(small, 0.5**6, Measured(halved_each_bit, se)) for se in (0.0, 0.004))
    assert unsure > sure
    assert upper_kld(Measured(halved_each_bit, 0.004)(BudgetSection(options={"target_bpw": unsure}))) <= 0.5**6


def test_smallest_possible_size_is_the_least_that_is_tried(small):
    size = found(small, 10.0, Measured(halved_each_bit))
    smallest = small.solution(f"budget.target_bpw={size}")
    smallest.check_target()
    with pytest.raises(InfeasibleError):
        small.solution(f"budget.target_bpw={size - 0.01}").check_target()


def test_target_that_no_size_reaches(small):
    measure = Measured(lambda bits: 1.0)
    with pytest.raises(InfeasibleError, match=r"no size reaches a mean KLD of 0.001: at [\d.]+ bits per weight, the largest tried"):
        found(small, 0.001, measure)
    assert max(measure.asked) == pytest.approx(16.0, abs=0.2), "the source's own size was tried"


def test_predictions_leave_neither_timings_nor_words(small):
    solution = small.solution()
    find_budget(solution, 0.01, Measured(halved_each_bit))
    assert "solve" not in solution.inputs.context.timings
    assert not [line for line in small.progress.said if line.startswith("solve")]
    assert small.files(".gguf") == set()


@pytest.mark.parametrize(
    ("settings", "has_text", "says"),
    [
        (("budget.target_kld=0.1", "select.enabled=true"), True, "--target-kld and --select contradict each other"),
        (("budget.target_kld=0.1",), False, "a target KLD needs held-out text to measure on; give --eval-corpus FILE"),
    ],
)
def test_target_that_cannot_be_measured_is_refused(small, settings, has_text, says):
    with pytest.raises(ConfigError, match=says):
        check_asked(small.config(*settings), has_text)


@pytest.mark.parametrize(("settings", "has_text"), [(("budget.target_kld=0.1",), True), (("select.enabled=true",), False)])
def test_what_can_be_asked(small, settings, has_text):
    assert check_asked(small.config(*settings), has_text) is None

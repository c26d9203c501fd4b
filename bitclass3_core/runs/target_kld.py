"""The smallest file whose measured mean KLD is within a target: bisection over sizes, led by the predicted curve times a fitted ratio.

Every size that is tried is built, measured and kept as figures; of the files only the answer stays.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import bpw, budget_for_bpw
from bitclass3_core.run_config import BudgetSection, RunConfig
from bitclass3_core.runs.solution import Solution, solution_of

STEPS_PER_BIT = 100  # sizes that are told apart: hundredths of a bit per weight
Z = 1.645  # of a standard error: the true mean lies below mean + Z * se with 95 % confidence
MAX_MEASUREMENTS = 10
_FIRST_RATIO = 1.4  # measured over predicted, before anything is measured
_TOLERANCE = 0.004  # of the size: neighbours closer than that are not told apart


def upper_kld(evaluation: Evaluation) -> float:
    """Upper end of the one-sided 95 % confidence interval of the mean KLD."""
    return evaluation.mean_kld + (Z * evaluation.se_kld if math.isfinite(evaluation.se_kld) else 0.0)


@dataclass(slots=True)
class Search:
    """Bisection over steps ``low`` to ``high``; ``predicted`` and ``measured`` give a step's KLD, both falling as steps rise.

    ``measured`` may fail to fall everywhere: the answer is the smallest step known to be within the target whose lower neighbour
    (by the tolerance) is known, or predicted from both sides, not to be.
    """

    target: float
    low: int
    high: int
    predicted: Callable[[int], float]
    measured: Callable[[int], float]
    tried: dict[int, float] = field(default_factory=dict)

    def run(self) -> int | None:
        """The answer; None if not even ``high`` is within the target."""
        failing, passing = self.low - 1, None
        step, width, n_slow = self._guess(failing, self.high + 1, _FIRST_RATIO), self.high - self.low, 0
        while len(self.tried) < MAX_MEASUREMENTS:
            self.tried[step] = self.measured(step)
            passing, failing = (step, failing) if self.tried[step] <= self.target else (passing, step)
            if failing >= self.high or (passing is not None and passing - failing <= self._tolerance(passing)):
                break
            end = self.high + 1 if passing is None else passing
            n_slow = n_slow + 1 if end - failing > width / 2 else 0
            width = end - failing
            predicted = self.predicted(step)
            ratio = self.tried[step] / predicted if predicted > 0 else _FIRST_RATIO
            # twice led by the prediction and still more than half is left: it does not know the way
            step = (failing + end) // 2 if n_slow > 1 else self._guess(failing, end, ratio)
        return passing

    def _tolerance(self, step: int) -> int:
        return max(1, round(_TOLERANCE * step))

    def _guess(self, failing: int, passing: int, ratio: float) -> int:
        """The smallest step between the two (both left out) that the prediction times ``ratio`` puts within the target.

        Where that is the passing end or the failing one itself, the step beside it that settles the matter.
        """
        between = range(failing + 1, passing)
        step = failing + 1 + bisect_left(between, True, key=lambda step: ratio * self.predicted(step) <= self.target)
        if step >= passing:  # nothing smaller is predicted to do: try the largest that would still be told apart
            step = passing - self._tolerance(passing)
        return min(max(step, failing + 1), passing - 1)


def check_asked(config: RunConfig, has_text: bool) -> None:
    """Raise ConfigError where a target KLD goes with what else is asked, or with no text to measure on, not together."""
    if config.budget.target_kld is None:
        return
    if config.select.enabled:
        raise ConfigError("--target-kld and --select contradict each other: the file that is measured must be the one that ships")
    if not has_text:
        raise ConfigError("a target KLD needs held-out text to measure on; give --eval-corpus FILE")


def find_budget(solution: Solution, target: float, measure: Callable[[BudgetSection], Evaluation]) -> BudgetSection:
    """The budget of the smallest size whose mean KLD, as ``measure`` gives it, is within the target. Raises InfeasibleError if none is."""
    progress, sizes = solution.inputs.context.progress, _Sizes(solution)

    def measured(step: int) -> float:
        found = measure(budget_at(step))
        progress.say(f"target KLD: {step / STEPS_PER_BIT:.2f} bits per weight measured: {found.mean_kld:.4g} ± {found.se_kld:.2g}")
        return upper_kld(found)

    search = Search(target, sizes.low, sizes.high, sizes.predicted, measured)
    answer = search.run()
    if answer is None:
        best = min(search.tried, key=search.tried.__getitem__)
        raise InfeasibleError(
            f"no size reaches a mean KLD of {target:g}: at {best / STEPS_PER_BIT:.2f} bits per weight, the largest tried, its upper "
            f"95 % bound is {search.tried[best]:.4g}; raise --target-kld, score more text (evaluate.options.n_tokens), or add larger types to the menu"
        )
    progress.say(
        f"target KLD {target:g}: {answer / STEPS_PER_BIT:.2f} bits per weight, at most {search.tried[answer]:.4g} (95 %), "
        f"{len(search.tried)} sizes measured"
    )
    return budget_at(answer)


def budget_at(step: int) -> BudgetSection:
    """The budget of a size in hundredths of a bit per weight."""
    return BudgetSection(options={"target_bpw": step / STEPS_PER_BIT})


class _Sizes:
    """The sizes that are possible, in hundredths of a bit per weight, and what is predicted of each."""

    def __init__(self, solution: Solution) -> None:
        inputs = solution.inputs
        self._config, self._aside = inputs.config, inputs.context.aside()
        self._costs = solution.costs  # those of every size
        self.predicted = cache(self._predicted)
        possible = inputs.possible_bytes
        per_step = budget_for_bpw(inputs.model, 1.0).data_bytes / STEPS_PER_BIT
        self.low = math.ceil(possible.smallest / per_step)
        self.high = math.floor(min(possible.largest / per_step, STEPS_PER_BIT * bpw(inputs.model, {})))

    def _predicted(self, step: int) -> float:
        """Cost of the solver's answer at a size."""
        solution = solution_of(self._config.model_copy(update={"budget": budget_at(step)}), self._aside)
        return self._costs.total(solution.allocation.qtypes) or 0.0

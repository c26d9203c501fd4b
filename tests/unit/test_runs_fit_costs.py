"""Multipliers fitted on mixes that are written, measured and deleted."""

import pytest
from run_fixtures import SmallRun

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import data_bytes
from bitclass3_core.runs.fit_costs import fit_costs
from bitclass3_core.runs.folder import RunFolder

MENU = "qtypes.menu=['Q3_K','Q4_K','Q6_K','Q8_0']"
FITS = (MENU, "select.enabled=true", "select.mixes=6", "evaluate.options.of_role={ffn_down=8.0, token_embd=0.1}")


def mixes(small: SmallRun) -> list[str]:
    return [name for name in small.measured if "-mix" in name]


def test_role_that_matters_more_than_predicted_gets_a_larger_multiplier(small):
    fitted = fit_costs(small.solution(*FITS))
    multipliers = fitted.inputs.config.cost_multipliers
    assert multipliers["ffn_down"] > 2 * multipliers["attn_q"] > 2 * multipliers["token_embd"]
    (line,) = (line for line in small.progress.said if "cost_multipliers fitted on" in line)
    before, after = (float(word.rstrip("%")) for word in line.split() if word.endswith("%"))
    assert after < before, "predictions come nearer to what was measured"


def test_solution_is_of_the_same_size_with_other_types(small):
    solution = small.solution(*FITS)
    fitted = fit_costs(solution)
    assert fitted.budget == solution.budget
    assert data_bytes(GgufModel(small.gguf), fitted.allocation.qtypes) <= solution.budget.data_bytes
    assert fitted.allocation.qtypes != solution.allocation.qtypes
    assert fitted.measured is solution.measured, "costs are measured once"


def test_mixes_differ_and_leave_no_files(small):
    fit_costs(small.solution(*FITS))
    made = RunFolder(small.out).candidates
    types = {tuple(sorted(made[name]["qtypes"].items())) for name in mixes(small)}
    assert 3 <= len(mixes(small)) == len(types) <= 6
    assert small.files(".gguf") == set()


def test_mixes_are_measured_once(small):
    first = fit_costs(small.solution(*FITS)).inputs.config.cost_multipliers
    measured = small.measured
    assert fit_costs(small.solution(*FITS)).inputs.config.cost_multipliers == first
    assert small.measured == measured
    assert small.files(".gguf") == set()


def test_mixes_are_only_tried(small):
    """Their solutions are not the run's: neither words nor seconds of theirs are kept."""
    solution = small.solution(*FITS)
    fit_costs(solution)
    assert "solve" not in solution.inputs.context.timings
    assert not [line for line in small.progress.said if line.startswith(("solve", "export"))]


def test_nothing_is_fitted_where_nothing_diverges(small):
    free = "evaluate.options.of_role={ffn_down=0.0, token_embd=0.0, attn_q=0.0}"
    solution = small.solution(*FITS[:3], free)
    assert fit_costs(solution) is None
    assert solution.inputs.context.warnings == ["select: no multipliers fitted: a mix has no predicted or no measured divergence"]


def test_multipliers_that_were_asked_for_are_where_the_mixes_begin(small):
    plain, asked = (small.solution(*FITS, *more) for more in ((), ("cost_multipliers.attn_q=1000.0",)))
    assert plain.allocation.qtypes != asked.allocation.qtypes
    fitted = fit_costs(asked).inputs.config.cost_multipliers
    assert fitted["attn_q"] < 10, "they are fitted to the costs as measured"


@pytest.mark.parametrize("n_mixes", [1, 3])
def test_as_many_mixes_as_asked_for(small, n_mixes):
    fit_costs(small.solution(MENU, "select.enabled=true", f"select.mixes={n_mixes}"))
    assert mixes(small) == [f"small-6.00bpw-mix{number:02}" for number in range(1, n_mixes + 1)]

"""From inputs to an answer: any property first, each made once, and made anew where a type turns out unusable."""

import json
from dataclasses import replace

import pytest
from run_fixtures import HOOKS, LOG, MATRICES, SmallRun, said, write_model

from bitclass3_core.errors import ContractError, InfeasibleError, UnusableTypeError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import data_bytes
from bitclass3_core.model import padded
from bitclass3_core.problem import Allocation
from bitclass3_core.runs.solution import Solution, solution_of

SOLVER = f"""{HOOKS}
from bitclass3_core.problem import allocation_of

@hookimpl
def bitclass3_solve(problem):
    {LOG}
    return allocation_of(problem, [PICK for _ in problem.groups], Path(__file__).stem)
"""


def smallest(small: SmallRun) -> str:
    """A solver that takes the smallest choices, and counts how often it is asked."""
    return f"solve.plugin={small.plugin('smallest', SOLVER.replace('PICK', '0'))!r}"


def failed(tensor: str = "blk.0.attn_q.weight", q: str = "Q4_K") -> UnusableTypeError:
    return UnusableTypeError(tensor, q, "its blocks come out invalid")


ASKED = {
    "estimate": lambda s: set(s.estimate.sensitivity.tensors),
    "measured": lambda s: set(s.measured.costs),
    "costs": lambda s: set(s.costs.costs),
    "budget": lambda s: s.budget.label,
    "problem": lambda s: len(s.problem.groups),
    "allocation": lambda s: set(s.allocation.qtypes),
    "planned": lambda s: s.planned("-x", "variation").name,
    "store": lambda s: s.store.earlier(),
    "is_measured": lambda s: s.is_measured,
    "unusable": lambda s: s.unusable,
}
ANSWERS = [set(MATRICES), set(MATRICES), set(MATRICES), "6.00bpw", 4, set(MATRICES), "small-6.00bpw-x", [], False, {}]


@pytest.mark.parametrize(("name", "answer"), list(zip(ASKED, ANSWERS, strict=True)))
def test_any_property_may_be_asked_first(small, name, answer):
    assert ASKED[name](small.solution()) == answer


def test_budget_is_known_before_anything_is_computed(small):
    solution = small.solution()
    solution.check_target()
    assert solution.budget.data_bytes > 0
    assert small.files() == set()


def test_target_out_of_reach_is_said_before_anything_is_computed(small):
    with pytest.raises(InfeasibleError, match="smallest possible"):
        small.solution("budget.target_bpw=2.0").check_target()
    assert small.files() == set()


def test_is_measured_writes_nothing_and_turns_true_with_the_costs(small):
    assert not small.solution().is_measured
    assert small.files() == set()
    _ = small.solution().costs
    assert small.solution().is_measured
    assert small.solution("budget.target_bpw=5.0").is_measured, "of any size"
    assert not small.solution("qtypes.menu=['Q4_K', 'Q6_K']").is_measured


def test_runs_of_a_folder_share_what_does_not_differ(small):
    context = small.context()
    one, other = (small.solution(f"budget.target_bpw={bpw}", context=context) for bpw in (5.0, 7.0))
    assert one.estimate is other.estimate
    assert one.measured is other.measured
    assert one.allocation.qtypes != other.allocation.qtypes
    assert data_bytes(one.inputs.model, one.allocation.qtypes) <= one.budget.data_bytes < other.budget.data_bytes
    assert len(said(small.progress.said, "measure")) == 1


def test_solver_is_asked_once(small):
    solution = small.solution(smallest(small))
    assert solution.allocation is solution.allocation
    assert small.logged == ["smallest"]
    assert set(solution.allocation.qtypes.values()) == {"Q4_K"}


def test_multipliers_change_costs_and_not_what_was_measured(small):
    plain, twice = (small.solution(f"cost_multipliers.attn_q={factor}") for factor in (1.0, 2.0))
    of = {solution: solution.costs.costs["blk.0.attn_q.weight"]["Q4_K"].cost for solution in (plain, twice)}
    assert of[twice] == 2 * of[plain] > 0
    assert twice.measured.costs["blk.0.attn_q.weight"] == plain.measured.costs["blk.0.attn_q.weight"]
    assert twice.costs.costs["token_embd.weight"] == plain.costs.costs["token_embd.weight"]


def test_tensor_that_cannot_have_its_type_gets_a_larger_one(small):
    solution = small.solution(smallest(small))
    _ = solution.allocation
    solution.without(failed())
    assert solution.allocation.qtypes == {**dict.fromkeys(MATRICES, "Q4_K"), "blk.0.attn_q.weight": "Q8_0"}
    choices = {group.name: [choice.qtype for choice in group.choices] for group in solution.problem.groups}
    assert "Q4_K" not in choices["blk.0.attn_q.weight"], "the solver is not offered it again"
    assert small.logged == ["smallest", "smallest"], "one question more, however often it is asked for"
    assert json.loads((small.out / "allocation.json").read_text())["qtypes"] == solution.allocation.qtypes
    assert solution.inputs.context.warnings == [
        "blk.0.attn_q.weight cannot be Q4_K: its blocks come out invalid; it gets the next larger type that works, "
        "and the rest is solved again"
    ]


def test_error_of_a_pair_that_is_known_is_raised_again(small):
    solution = small.solution("budget.target_bpw=8.0")
    solution.without(failed())
    with pytest.raises(UnusableTypeError, match=r"blk.0.attn_q.weight cannot be Q4_K"):
        solution.without(failed())
    solution.without(failed("blk.1.attn_q.weight"))
    assert set(solution.unusable) == {("blk.0.attn_q.weight", "Q4_K"), ("blk.1.attn_q.weight", "Q4_K")}


def test_later_runs_of_the_source_know_of_it_and_those_of_another_do_not(small, tmp_path):
    small.solution().without(failed())
    assert small.solution(smallest(small)).allocation.qtypes["blk.0.attn_q.weight"] == "Q8_0"
    weights = GgufModel(small.gguf).read("blk.1.attn_q.weight")
    other = write_model(tmp_path / "other.gguf", values={"blk.0.attn_q.weight": weights})
    assert small.solution(f"model.gguf={str(other)!r}").unusable == {}


def test_mix_is_usable_as_it_is_or_with_the_next_larger_type(small):
    solution = small.solution()
    mix = Allocation(dict.fromkeys(MATRICES, "Q4_K"), solver="stock", note="stock Q4_K_S")
    assert solution.usable(mix) == mix
    solution.without(failed())
    warned = len(solution.inputs.context.warnings)
    changed = solution.usable(mix)
    assert changed == replace(mix, qtypes={**mix.qtypes, "blk.0.attn_q.weight": changed.qtypes["blk.0.attn_q.weight"]})
    info = solution.inputs.model.tensors["blk.0.attn_q.weight"]
    assert data_bytes(solution.inputs.model, changed.qtypes) > data_bytes(solution.inputs.model, mix.qtypes)
    (line,) = solution.inputs.context.warnings[warned:]
    assert line == f"stock Q4_K_S: {info.name} is {changed.qtypes[info.name]} instead of Q4_K, which it cannot be"
    solution.without(failed(q=changed.qtypes[info.name]))
    assert solution.usable(mix).qtypes[info.name] not in ("Q4_K", changed.qtypes[info.name]), "and the next one after that"


def test_answer_beyond_the_budget_is_refused(small):
    largest = f"solve.plugin={small.plugin('largest', SOLVER.replace('PICK', '-1'))!r}"
    with pytest.raises(ContractError, match=r"plugin 'largest' answered [\d,]+ bytes, the budget is"):
        _ = small.solution(largest).allocation


def test_remarks_of_the_solver_are_warned_of(small):
    source = SOLVER.replace("PICK", "0").replace("return ", "from dataclasses import replace\n    return replace(")
    remarking = source.rstrip() + ", remarks=('small it is',))\n"
    solution = small.solution(f"solve.plugin={small.plugin('remarking', remarking)!r}")
    _ = solution.allocation
    assert solution.inputs.context.warnings == ["small it is"]


def test_what_is_said_of_an_answer(small):
    _ = small.solution().allocation
    (line,) = said(small.progress.said, "solve")
    assert line.startswith("ilp in ")
    assert "nats" not in line, "uniform knows no nats"
    assert line.endswith("optimal")
    _ = small.solution("gpu.budget='1MiB'").allocation
    assert said(small.progress.said, "solve")[-1].endswith("on the GPU")


def test_bytes_of_tensors_that_have_a_choice(small):
    solution = small.solution()
    model, mix = solution.inputs.model, Allocation(dict.fromkeys(MATRICES, "Q8_0"))
    assert solution.quantizable_bytes(mix) == data_bytes(model, mix.qtypes) - padded(4 * 256), "all but the norm"


def test_allocation_json(small):
    solution = small.solution()
    solution.write_allocation(solution.allocation)
    values = json.loads((small.out / "allocation.json").read_text())
    assert values["qtypes"] == dict(solution.allocation.qtypes)
    assert values["cost"] == pytest.approx(solution.costs.total(solution.allocation.qtypes))
    assert values["budget"] == {"data_bytes": solution.budget.data_bytes, "label": "6.00bpw"}
    assert values["proof"]["optimal"] is True
    solution.write_allocation(replace(solution.allocation, proof=None))
    assert json.loads((small.out / "allocation.json").read_text())["proof"] is None


def test_solution_of_another_configuration_keeps_the_loaded_plugins(small):
    context = small.context()
    first = small.solution(context=context)
    _ = first.allocation
    other = solution_of(small.config("budget.target_bpw=5.0"), context)
    assert isinstance(other, Solution)
    assert other.inputs.stages.plugin("solve").plugin is first.inputs.stages.plugin("solve").plugin

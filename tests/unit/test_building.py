"""From costs to the problem that solvers get."""

import pytest
from gguf_files import matrices, memory_model

from bitclass3_core.constraints.larger_types import larger_type
from bitclass3_core.constraints.limits import Limits
from bitclass3_core.constraints.problem import build_problem
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture
from bitclass3_core.problem import Choice

Q, K, UP, NORM = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.ffn_up.weight", "output_norm.weight"
MODEL = memory_model(blk__0__attn_q=(4, 256), blk__0__attn_k=(2, 256), blk__1__ffn_up=(8, 32), output_norm=(250,))
ARCH = matrices(MODEL)
FIXED = 512  # 250 BF16 weights, padded to 32 bytes
BYTES = {"Q4_K": 4 * 144, "Q6_K": 864, "BF16": 2048}  # of attn_q; 4 * 210 = 840 is padded


def costs(**cells: float) -> CostTable:
    """The same cells for the two wide matrices; ffn_up, whose rows hold no K type, has Q8_0."""
    wide = {q: Cost(value, 0.0, 1) for q, value in {**cells, "BF16": 0.0}.items()}
    return CostTable({Q: wide, K: wide, UP: {"Q8_0": Cost(0.1, 0.0, 1), "BF16": Cost(0.0, 0.0, 0)}})


COSTS = costs(Q4_K=2.0, Q6_K=1.0)
LARGE = Budget(MODEL.tensors[Q].source_bytes + 1024 + 512 + FIXED, "all")


def group(problem, name):
    return next(group for group in problem.groups if group.name == name)


def test_choices_are_in_file_bytes_and_rise():
    problem = build_problem(MODEL, ARCH, COSTS, Limits(), LARGE)
    assert [group.name for group in problem.groups] == sorted((Q, K, UP))
    assert group(problem, Q).choices == tuple(Choice(q, n, c) for (q, n), c in zip(BYTES.items(), (2.0, 1.0, 0.0), strict=True))
    assert group(problem, Q).tensors == (Q,)
    assert problem.budget_bytes == LARGE.data_bytes - FIXED


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        ({"Q4_K": 2.0, "Q5_K": 3.0, "Q6_K": 1.0}, ["Q4_K", "Q6_K", "BF16"]),  # larger and worse
        ({"Q4_K": 2.0, "IQ4_NL": 1.5, "Q6_K": 1.0}, ["IQ4_NL", "Q6_K", "BF16"]),  # as large, better
        ({"Q4_K": 2.0, "Q6_K": 0.0}, ["Q4_K", "Q6_K"]),  # nothing is better than no cost
    ],
)
def test_dominated_choices_are_dropped(cells, kept):
    problem = build_problem(MODEL, ARCH, costs(**cells), Limits(), Budget(2000, "x"))
    assert [choice.qtype for choice in group(problem, Q).choices] == kept


def test_floor_takes_smaller_types_away():
    floored = Architecture("test", ARCH.quantizable, {Q: "Q6_K"})
    problem = build_problem(MODEL, floored, COSTS, Limits(), LARGE)
    assert [choice.qtype for choice in group(problem, Q).choices] == ["Q6_K", "BF16"]
    assert [choice.qtype for choice in group(problem, K).choices] == ["Q4_K", "Q6_K", "BF16"]


def test_source_type_is_allowed_whatever_the_floor():
    floored = Architecture("test", ARCH.quantizable, {Q: "F32"})
    assert [choice.qtype for choice in group(build_problem(MODEL, floored, COSTS, Limits(), LARGE), Q).choices] == ["BF16"]


def test_pin_leaves_one_choice_below_any_floor():
    floored = Architecture("test", ARCH.quantizable, {Q: "Q8_0"})
    problem = build_problem(MODEL, floored, COSTS, Limits(pins={Q: "Q4_K", K: "F16"}), Budget(2600, "x"))
    assert group(problem, Q).choices == (Choice("Q4_K", 576, 2.0),)
    assert group(problem, K).choices == (Choice("F16", 1024, 0.0),)


def test_budget_that_is_too_small():
    smallest = 576 + 288 + 288 + FIXED  # Q4_K, Q4_K, Q8_0 (8 * 34 = 272, padded), and the norm
    build_problem(MODEL, ARCH, COSTS, Limits(), Budget(smallest, "x"))
    message = f"budget is {smallest - 1:,} bytes, smallest possible is {smallest:,}; raise the target or add smaller types to"
    with pytest.raises(InfeasibleError, match=message):
        build_problem(MODEL, ARCH, COSTS, Limits(), Budget(smallest - 1, "x"))


def test_budget_that_is_too_large():
    n_bytes = LARGE.data_bytes
    build_problem(MODEL, ARCH, COSTS, Limits(), LARGE)
    message = f"budget is {n_bytes + 1:,} bytes, the source's own tensors take {n_bytes:,}; lower the target, a larger file"
    with pytest.raises(InfeasibleError, match=message):
        build_problem(MODEL, ARCH, COSTS, Limits(), Budget(n_bytes + 1, "x"))


def test_type_that_failed_takes_all_that_is_no_larger_with_it():
    table = costs(Q4_K=3.0, Q5_K=2.0, Q6_K=1.0)
    problem = build_problem(MODEL, ARCH, table, Limits(), LARGE, {(Q, "Q5_K"): "NaN"})
    assert [choice.qtype for choice in group(problem, Q).choices] == ["Q6_K", "BF16"]
    assert [choice.qtype for choice in group(problem, K).choices] == ["Q4_K", "Q5_K", "Q6_K", "BF16"]


def test_infinite_cost_is_no_choice():
    problem = build_problem(MODEL, ARCH, costs(Q4_K=float("inf"), Q6_K=1.0), Limits(), LARGE)
    assert [choice.qtype for choice in group(problem, Q).choices] == ["Q6_K", "BF16"]


def test_pin_to_a_type_that_failed():
    with pytest.raises(
        ConfigError, match=r"blk\.0\.attn_q\.weight is pinned to Q4_K, which cannot hold its weights; pin a larger type"
    ):
        build_problem(MODEL, ARCH, COSTS, Limits(pins={Q: "Q4_K"}), LARGE, {(Q, "Q4_K"): "NaN"})


@pytest.mark.parametrize(("failed", "larger"), [("IQ2_XXS", "IQ2_XS"), ("Q4_K", "Q4_1"), ("Q8_0", "BF16")])
def test_larger_type(failed, larger):
    assert larger_type(MODEL.tensors[Q], failed) == larger


def test_larger_type_fits_the_rows():
    assert larger_type(MODEL.tensors[UP], "IQ4_NL") == "Q4_1"  # rows of 32 hold no K type

"""Constraints from their words to the answer: the solver's allocation is the best of all that keep them, tried one by one."""

import re
from itertools import product

import bitclass3_ilp
import pytest
from bitclass3_ilp import Options
from gguf_files import matrices, memory_model
from hypothesis import given, settings
from hypothesis import strategies as st

from bitclass3_core.constraints.gpu import gpu_of
from bitclass3_core.constraints.limits import limits_of
from bitclass3_core.constraints.problem import build_problem
from bitclass3_core.constraints.rules import rules_of
from bitclass3_core.constraints.wanted import wanted_cells
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.layout import Budget, data_bytes, fixed_bytes
from bitclass3_core.plugin.checks import check_kept
from bitclass3_core.qtypes import menu, qtype

MODEL = memory_model(
    blk__0__attn_q=(64, 256), blk__0__attn_k=(16, 256), blk__0__ffn_up=(96, 256), blk__1__attn_q=(64, 256), output_norm=(256,)
)
NAMES = sorted(name for name in MODEL.tensors if "norm" not in name)
ARCH = matrices(MODEL)
MENU = menu(["Q3_K", "Q4_K", "Q8_0"])
PATTERNS = ("attn_q", r"blk\.0\.", "attn_k", "ffn", r"blk\.1")
TYPES = st.sampled_from(["Q3_K", "Q4_K", "Q8_0"])
REGEX = st.sampled_from(PATTERNS)


def keeps(answer, pins, floors, menus, groups):
    """Whether an assignment keeps the constraints, straight from their words."""

    def matched(pattern):
        return [name for name in NAMES if re.search(pattern, name)]

    def bpw(name):
        return qtype(answer[name]).bpw

    return (
        all(answer[name] == q for pattern, q in pins.items() for name in matched(pattern))
        and all(bpw(name) >= qtype(q).bpw for pattern, q in floors.items() for name in matched(pattern))
        and all(
            answer[name] in (*qs, "BF16") or name in pinned(pins, groups, matched) for p, qs in menus.items() for name in matched(p)
        )
        and all(len({answer[name] for name in matched(pattern)}) == 1 for pattern in groups)
    )


def pinned(pins, groups, matched):
    """The tensors that a pin holds for, itself or through the one set of tensors that share a type."""
    names = {name for pattern in pins for name in matched(pattern)}
    for members in map(matched, groups):
        names |= set(members) if names.intersection(members) else set()
    return names


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(REGEX, TYPES, max_size=2),
    st.dictionaries(REGEX, TYPES, max_size=2),
    st.dictionaries(REGEX, st.lists(TYPES, min_size=1, unique=True), max_size=1),
    st.lists(st.sampled_from(["attn_q", r"blk\.0\.", "attn"]), max_size=1),
    st.lists(st.floats(0.1, 10), min_size=12, max_size=12),
    st.floats(0.15, 1.0),
    st.none() | st.floats(0.1, 1.0),
)
def test_the_answer_is_the_best_that_keeps_the_constraints(pins, floors, menus, groups, costs, share, gpu_share):
    gpu_patterns = [r"blk\.0\.attn", r"blk\.1"]
    total = data_bytes(MODEL, {})
    budget = Budget(int(share * total), "x")
    gpu = None if gpu_share is None else gpu_of(MODEL, int(gpu_share * 3 * 64 * 512), gpu_patterns)
    table = CostTable(
        {
            name: {q.name: Cost(costs[3 * i + j] / q.bpw, 0.0, 1) for j, q in enumerate(MENU)} | {"BF16": Cost(0.0, 0.0, 0)}
            for i, name in enumerate(NAMES)
        }
    )
    best = min(
        (
            sum(table.costs[name][q].cost for name, q in zip(NAMES, types, strict=True))
            for types in product(("Q3_K", "Q4_K", "Q8_0", "BF16"), repeat=len(NAMES))
            if keeps(answer := dict(zip(NAMES, types, strict=True)), pins, floors, menus, groups)
            and data_bytes(MODEL, answer) <= budget.data_bytes
            and (gpu is None or sum(MODEL.tensors[n].n_bytes(qtype(answer[n])) for n in gpu.tensors) <= gpu.budget_bytes)
        ),
        default=None,
    )
    try:
        limits = limits_of(MODEL, rules_of(MODEL, ARCH, pins, floors, menus, groups), gpu)
        wanted = wanted_cells(MODEL, ARCH.quantizable, MENU, limits)
        seen = CostTable({n: {q: c for q, c in table.costs[n].items() if q == "BF16" or qtype(q) in wanted[n]} for n in NAMES})
        problem = build_problem(MODEL, ARCH, seen, limits, budget)
        allocation = bitclass3_ilp.bitclass3_solve(problem, Options())
    except ConfigError:
        return  # a contradiction, or a menu that leaves nothing but the source's type above a floor
    except InfeasibleError:
        assert best is None
        return
    n_bytes = data_bytes(MODEL, allocation.qtypes) - fixed_bytes(MODEL, ARCH.quantizable)
    check_kept(allocation, MODEL, n_bytes, problem.budget_bytes, limits, "ilp")
    assert keeps(allocation.qtypes, pins, floors, menus, groups)
    assert allocation.proof.optimal
    assert best is not None
    assert table.total(allocation.qtypes) == pytest.approx(best, rel=1e-9, abs=1e-12)

"""Costs from a sample of rows lead to the same allocation, in what it really costs, as costs from all rows: on real weights."""

from pathlib import Path

import bitclass3_ilp
import bitclass3_weighted_error as weighted_error
import numpy as np
import pytest
from bitclass3_ilp import Options

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.constraints.problem import build_problem
from bitclass3_core.constraints.wanted import wanted_cells
from bitclass3_core.costs import CostTable
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.layout import budget_for_bpw
from bitclass3_core.model import Architecture, OneTensor
from bitclass3_core.qtypes import menu
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-qwen35" / "model-bf16.gguf"
BUDGETS = (3.5, 4.25, 5.5)


def prices(model, sensitivity, wanted, **options):
    measured = {
        name: weighted_error.bitclass3_measure(
            model=OneTensor(model, name), sensitivity=sensitivity, qtypes=types, options=weighted_error.Options(**options)
        ).costs[name]
        for name, types in wanted.items()
    }
    source = weighted_error.Cost(0.0, 0.0, 0)
    return CostTable({name: {**cells, model.tensors[name].dtype: source} for name, cells in measured.items()})


@pytest.mark.slow
def test_the_sample_changes_the_allocation_s_true_cost_by_less_than_half_a_percent():
    model = GgufModel(EXAMPLE)
    architecture = Architecture("example", quantizable_tensors(model))
    rng = np.random.default_rng(0)
    powers = {
        name: Powers(
            rng.gamma(0.5, 2.0, info.n_in).astype(np.float32),
            (np.exp(rng.normal(0, 1.5)) * rng.gamma(1.0, 1.0, info.n_rows)).astype(np.float32),
        )
        for name, info in model.tensors.items()
        if name in architecture.quantizable
    }
    sensitivity = Sensitivity({name: TensorSensitivity(linear) for name, linear in powers.items()}, "test", 1, 1, "")
    wanted = wanted_cells(model, architecture.quantizable, menu("default"), Limits())
    whole = prices(model, sensitivity, wanted, relative_error=0)
    sampled = prices(model, sensitivity, wanted, whole_weights=0, min_rows=32)
    cells = [(cell, whole.costs[name][q]) for name, row in sampled.costs.items() for q, cell in row.items() if cell.se]
    assert len(cells) > 300
    z = np.array([(cell.cost - true.cost) / cell.se for cell, true in cells])
    assert abs(z.mean()) < 0.3
    assert np.sqrt((z**2).mean()) < 1.6  # 32 rows know their own spread to an eighth at best
    for bpw in BUDGETS:
        budget = budget_for_bpw(model, bpw)
        answers = [
            bitclass3_ilp.bitclass3_solve(build_problem(model, architecture, table, Limits(), budget), Options())
            for table in (whole, sampled)
        ]
        best, found = (whole.total(answer.qtypes) for answer in answers)
        assert best <= found <= best * 1.005, bpw

"""A ladder's plan on the shapes of published models, with costs that are made up: every budget met to the byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_shapes import findings_scores, qwen3_30b_a3b, qwen35_9b, sensitivity_of, synthetic_costs

from bitclass3_core.gguf.names import fragile_floors, quantizable_tensors
from bitclass3_core.layout import bpw, data_bytes
from bitclass3_core.model import Architecture
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.release.ladder import Ladder
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.estimate import Estimate
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.runs.solution import Solution

LEVELS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_S"


@pytest.fixture
def ladder_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any, dict[str, float], str], Ladder]:
    """Makes a ladder whose source, sensitivity and costs are given."""

    def ladder(model: Any, scores: dict[str, float], levels: str) -> Ladder:
        quantizable = quantizable_tensors(model)
        monkeypatch.setattr(Inputs, "model", model)
        monkeypatch.setattr(Inputs, "source", "source")
        monkeypatch.setattr(Inputs, "architecture", Architecture("test", quantizable, fragile_floors(model, quantizable)))
        monkeypatch.setattr(Solution, "estimate", Estimate(sensitivity_of(scores), "sha256"))
        monkeypatch.setattr(Solution, "measured", synthetic_costs(model, quantizable))
        config = load_config(flags={("out",): tmp_path / "out"}, plugins=["uniform"])
        return Ladder(config, levels, "shipped", Silent(), "test")

    return ladder


def smallest_step(model: Any, qtypes: dict[str, str], costs: Any) -> int:
    """Bytes of the cheapest change that would make some tensor larger."""
    steps = []
    for name, q in qtypes.items():
        info = model.tensors[name]
        now = info.n_bytes(qtype(q))
        steps += [info.n_bytes(qtype(other)) - now for other in costs.costs[name] if info.n_bytes(qtype(other)) > now]
    return min(steps)


@pytest.mark.parametrize(
    ("model", "scores"),
    [
        (qwen35_9b(), findings_scores),
        (qwen3_30b_a3b(), lambda m: {n: 0.1 for n in quantizable_tensors(m) if n != "token_embd.weight"}),
    ],
    ids=["Qwen3.5-9B", "30B-A3B"],
)
def test_every_level_is_within_its_budget_and_fills_it(model, scores, ladder_of):
    ladder = ladder_of(model, scores(model), LEVELS)
    costs, predicted = ladder.base.costs, []
    for config in ladder.configs.values():
        pipeline = ladder.base.sibling(config)
        pipeline.check_target()
        budget, qtypes = pipeline.budget, dict(pipeline.allocation.qtypes)
        used = data_bytes(model, qtypes)
        assert used <= budget.data_bytes
        # what is left would let no tensor grow by its cheapest step
        assert budget.data_bytes - used < max(smallest_step(model, qtypes, costs), budget.data_bytes // 1000)
        assert pipeline.allocation.proof.gap < 1e-3
        predicted.append(costs.total(qtypes))
    assert predicted == sorted(predicted), "a smaller file costs more"


def test_sizes_are_met_to_the_byte_metadata_included(ladder_of, tmp_path):
    model = qwen35_9b()
    ladder = ladder_of(model, findings_scores(model), "5.5GB,4.5,4.25bpw")
    asked = {"5.5GB": 5_500_000_000}
    for name, config in ladder.configs.items():
        pipeline = ladder.base.sibling(config)
        qtypes = pipeline.allocation.qtypes
        if name in asked:
            assert pipeline.budget.file_bytes == asked[name]
            assert data_bytes(model, qtypes) <= pipeline.budget.data_bytes < asked[name]
        else:
            assert bpw(model, qtypes) <= float(name.removesuffix("bpw"))
    assert not (tmp_path / "out").exists()

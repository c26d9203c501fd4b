"""The table of stages agrees with hooks, suites and configuration, and its checks refuse what a hook does not allow."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_origin, get_type_hints

import numpy as np
import pytest
from fake_runs import evaluation
from gguf_files import matrices, memory_model

from bitclass3_core import hookspecs, testing
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ContractError
from bitclass3_core.layout import Budget
from bitclass3_core.plugin.stage_table import STAGE_TABLE, STAGES
from bitclass3_core.problem import Allocation
from bitclass3_core.qtypes import qtype
from bitclass3_core.run_config import RunConfig
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

NAME = "blk.0.attn_q.weight"
MODEL = memory_model(blk__0__attn_q=(16, 256), output_norm=(256,))
ARCHITECTURE = matrices(MODEL)
ASKED = {
    "model": MODEL,
    "architecture": ARCHITECTURE,
    "qtypes": (qtype("Q4_K"),),
    "candidates": [SimpleNamespace(path=Path("out/a.gguf"))],
}
POWERS = Powers(np.ones(256, np.float32))
SENSITIVITY = Sensitivity({NAME: TensorSensitivity(linear=POWERS)}, "x", 0, 0, "none")
COST = {"Q4_K": Cost(0.1, 0.0, 1)}
ONE_TENSOR = {**ASKED, "model": memory_model(blk__0__attn_q=(16, 256))}  # the metric is asked about one at a time
GOOD: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "estimate": SENSITIVITY,
    "measure": CostTable({NAME: COST}),
    "budget": Budget(100, "small"),
    "solve": Allocation({NAME: "Q4_K"}),
    "export": [Path(__file__)],
    "evaluate": [evaluation("a", 0.1)],
    "report": [],
}
BAD: list[tuple[str, Any, str]] = [
    ("architecture", replace(ARCHITECTURE, quantizable=frozenset({"nothing"})), "names tensors that the model does not have"),
    ("estimate", replace(SENSITIVITY, tensors={}), f"left out tensors: {NAME}"),
    ("estimate", replace(SENSITIVITY, tensors={NAME: TensorSensitivity(linear=Powers(np.ones(8)))}), "has shape"),
    ("measure", CostTable({NAME: {}}), f"gave no cost for {NAME} at Q4_K"),
    ("measure", CostTable({NAME: {"Q4_K": Cost(float("nan"), 0.0, 1)}}), "expected a number of 0 or more"),
    ("budget", Budget(1.5, "small"), "expected a whole number"),
    ("budget", Budget(1, "../up"), "it stands in file names"),
    ("solve", Allocation({}), "must answer each quantizable tensor"),
    ("export", [Path("nothing.gguf")], "says that it wrote nothing.gguf, which is no file"),
    ("export", [str(__file__)], "which is no file"),
    ("evaluate", [], r"evaluated \[\], expected \['a'\]"),
    ("evaluate", [evaluation("b", 0.1)], r"evaluated \['b'\], expected \['a'\]"),
    ("report", [Path("nothing.md")], "which is no file"),
]


def check(stage: str, answer: Any) -> None:
    STAGE_TABLE[stage].check(answer, ONE_TENSOR if stage == "measure" else ASKED, "mine")


def test_order_is_that_of_a_run():
    assert STAGES == ("architecture", "estimate", "measure", "budget", "solve", "export", "evaluate", "report")


@pytest.mark.parametrize("stage", STAGES)
def test_answer_is_what_the_hook_says(stage):
    answer = get_type_hints(getattr(hookspecs, f"bitclass3_{stage}"))["return"]
    assert STAGE_TABLE[stage].answer is (get_origin(answer) or answer)


@pytest.mark.parametrize("stage", STAGES)
def test_suite_of_that_name_is_public_and_for_that_stage(stage):
    name = STAGE_TABLE[stage].suite
    assert name in testing.__all__
    assert getattr(testing, name).stage == stage


@pytest.mark.parametrize("stage", STAGES)
def test_title_can_begin_a_sentence(stage):
    article, noun = STAGE_TABLE[stage].title.split(" ", 1)
    assert article == ("An" if noun[0] in "aeiou" else "A")


@pytest.mark.parametrize("stage", STAGES)
def test_configuration_names_several_plugins_where_the_stage_is_a_list(stage):
    named = getattr(RunConfig(), stage).plugin
    assert isinstance(named, list if STAGE_TABLE[stage].is_list else str)


@pytest.mark.parametrize("stage", STAGES)
def test_good_answer_passes(stage):
    assert isinstance(GOOD[stage], STAGE_TABLE[stage].answer)
    check(stage, GOOD[stage])


@pytest.mark.parametrize(("stage", "answer", "says"), BAD)
def test_what_the_hook_does_not_allow_is_refused_in_the_plugins_name(stage, answer, says):
    with pytest.raises(ContractError, match=rf"plugin 'mine'.*{says}"):
        check(stage, answer)


def test_every_check_has_an_answer_that_it_refuses():
    assert {stage for stage, _, _ in BAD} == set(STAGES)

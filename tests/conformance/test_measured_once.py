"""The metric's suite measures the whole sample once a class, and again where a subclass's fixtures or options give something else."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bitclass3_core import hookimpl
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity
from bitclass3_core.testing import MetricConformance
from bitclass3_core.testing.metric import _measured
from bitclass3_core.testing.samples import sample_sensitivity, sample_weights, write_gguf

NAME = "blk.0.attn_q.weight"


def suite(asked: list[str]) -> MetricConformance:
    """A suite of its own, whose metric notes the tensors that it is asked for."""
    counting = ModuleType("counting")

    @hookimpl
    def bitclass3_measure(model, qtypes):
        asked.extend(model.tensors)
        return CostTable({name: {q.name: Cost(1.0, 0.0, 1) for q in qtypes} for name in model.tensors})

    counting.bitclass3_measure = bitclass3_measure

    class Counting(MetricConformance):
        plugin = counting

    return Counting()


def a_model(path: Path, seed: int) -> GgufModel:
    return GgufModel(write_gguf(path / f"{seed}.gguf", "llama", {NAME: sample_weights((256, 256), seed)}))


@pytest.fixture
def model(tmp_path: Path) -> GgufModel:
    return a_model(tmp_path, 1)


@pytest.fixture
def sensitivity(model: GgufModel) -> Sensitivity:
    return sample_sensitivity(model, quantizable_tensors(model))


def test_once_for_tests_that_give_the_same(model, sensitivity, tmp_path):
    asked: list[str] = []
    counting = suite(asked)
    _measured(counting, model, sensitivity)
    again = type(counting)()  # what pytest makes for the next test, with fixtures made anew
    assert _measured(again, GgufModel(model.path), replace(sensitivity)) == counting.measure(model, sensitivity)
    assert asked == [NAME] * 2, "the second is the one that was not to be remembered"


def test_again_where_something_else_is_given(model, sensitivity, tmp_path):
    tensor = sensitivity.tensors[NAME]
    powers = tensor.linear
    others = [
        Powers(2 * powers.in_power, powers.out_power),
        Powers(powers.in_power),
        Powers(powers.in_power, powers.out_power, powers.in_power),
    ]
    changed = [replace(sensitivity, tensors={NAME: TensorSensitivity(other)}) for other in others]
    changed += [
        replace(sensitivity, tensors={NAME: TensorSensitivity(lookup=powers)}),
        replace(sensitivity, tensors={NAME: replace(tensor, columns=np.ones(256, np.float32))}),
        replace(sensitivity, tensors={NAME: replace(tensor, activation={"Q8_0": 1e-6})}),
        replace(sensitivity, only_ranks=True),
    ]
    asked: list[str] = []
    counting = suite(asked)
    for n, other in enumerate([sensitivity, *changed]):
        _measured(counting, model, other)
        assert len(asked) == n + 1, other
    _measured(counting, a_model(tmp_path, 2), changed[-1])
    assert len(asked) == len(changed) + 2
    counting.options = {"seed": 1}
    with pytest.raises(Exception, match="takes no options"):
        _measured(counting, a_model(tmp_path, 2), changed[-1])


def test_each_class_measures_for_itself(model, sensitivity):
    asked: list[str] = []
    _measured(suite(asked), model, sensitivity)
    _measured(suite(asked), model, sensitivity)
    assert asked == [NAME] * 2

"""The sensitivity is estimated once, and again where what it depends on has changed."""

import numpy as np
import pytest
from run_fixtures import HOOKS, LOG, MATRICES, SmallRun, said, write_documents

from bitclass3_core.errors import ModelFileError
from bitclass3_core.files import sha256_file
from bitclass3_core.runs.estimate import Estimate, estimate, sensitivity_artefact

# Powers are ``power`` times the number of documents; how often it was asked stands in the log.
ESTIMATOR = f"""{HOOKS}
from bitclass3_core.options import PluginOptions
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

class Options(PluginOptions):
    power: float = 1.0

@hookimpl
def bitclass3_estimate(model, architecture, corpus, options: Options):
    {LOG}
    power = options.power * len(corpus.calibration)
    tensors = {{
        name: TensorSensitivity(linear=Powers(np.full(model.tensors[name].n_in, power, np.float32)))
        for name in architecture.quantizable
    }}
    return Sensitivity(tensors, Path(__file__).stem, 4, 1, "text", notes=("powers are made up",))
"""


@pytest.fixture
def mine(small: SmallRun) -> str:
    return f"estimate.plugin={small.plugin('mine', ESTIMATOR)!r}"


def power(found: Estimate) -> float:
    return float(found.sensitivity.tensors["blk.0.attn_q.weight"].linear.in_power[0])


def test_it_is_estimated_once_and_loaded_by_the_next_run(small, mine):
    first, again = estimate(small.inputs(mine)), estimate(small.inputs(mine))
    assert small.logged == ["mine"]
    assert set(again.sensitivity.tensors) == set(MATRICES)
    assert again.sha256 == first.sha256 == sha256_file(small.out / "sensitivity-mine.safetensors")
    assert said(small.progress.said, "estimate") == ["mine (not there)", "sensitivity-mine.safetensors is up to date"]


def test_siblings_share_one_in_memory(small, mine):
    context = small.context()
    one, other = (small.inputs(mine, f"budget.target_bpw={bpw}", context=context) for bpw in (5, 7))
    assert estimate(one) is estimate(other)
    assert small.logged == ["mine"]


def change_text(small: SmallRun) -> str:
    write_documents(small.folder / "calibration.jsonl", "a", "b", "c", "new")
    return ""


def change_plugin(small: SmallRun) -> str:
    small.plugin("mine", f"{ESTIMATOR}\nEDITED = True\n")
    return ""


def change_options(small: SmallRun) -> str:
    return "estimate.options.power=2.0"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_text, "calibration"),
        (change_plugin, "estimate_plugin"),
        (change_options, "options.power 1.0 -> 2.0"),
    ],
)
def test_it_is_estimated_again_when_what_it_depends_on_changes(small, mine, change, reason):
    estimate(small.inputs(mine))
    settings = [setting for setting in (mine, change(small)) if setting]
    estimate(small.inputs(*settings))
    assert small.logged == ["mine", "mine"]
    assert said(small.progress.said, "estimate")[-1].startswith(f"mine ({reason}")
    estimate(small.inputs(*settings))
    assert small.logged == ["mine", "mine"], "and the new one is kept"


def test_what_it_does_not_depend_on_changes_nothing(small, mine):
    estimate(small.inputs(mine))
    write_documents(small.folder / "evaluation.jsonl", "x", "y")
    estimate(small.inputs(mine, "qtypes.menu=['Q6_K']", "evaluate.options.favour=nothing"))
    assert small.logged == ["mine"]


def test_estimators_lie_side_by_side(small, mine):
    for settings in ((), (mine,), (), (mine,)):
        estimate(small.inputs(*settings))
    assert small.logged == ["mine"]
    assert small.files(".safetensors") == {"sensitivity-mine.safetensors", "sensitivity-uniform.safetensors"}


def test_imatrix_of_a_text_of_its_own_gives_the_columns_alone(small, mine, tmp_path):
    text = write_documents(tmp_path / "imatrix.jsonl", "x", "y", "z")
    columns = f"imatrix.plugin={small.plugin('columns', ESTIMATOR)!r}"
    settings = (mine, "estimate.options.power=5.0", columns, "imatrix.options.power=1.0", f"corpus.imatrix=[{str(text)!r}]")
    found = estimate(small.inputs(*settings))
    n_calibration = len(small.inputs(*settings).corpus.calibration)
    assert small.logged == ["mine", "columns"]
    assert power(found) == 5.0 * n_calibration, "costs are those of the calibration text"
    for tensor in found.sensitivity.tensors.values():
        np.testing.assert_array_equal(tensor.columns, np.full_like(tensor.linear.in_power, 3.0), "three documents of its own")
    assert power(estimate(small.inputs(*settings))) == power(found)
    write_documents(text, "x", "y")
    changed = estimate(small.inputs(*settings)).sensitivity.tensors["token_embd.weight"]
    assert small.logged == ["mine", "columns"] * 2
    assert changed.columns[0] == 2.0
    assert said(small.progress.said, "estimate")[-1] == f"imatrix by {tmp_path / 'columns.py'} on 2 documents of its own"


def test_notes_are_warned_of_whether_made_or_loaded(small, mine):
    for _ in range(2):
        inputs = small.inputs(mine)
        estimate(inputs)
        assert inputs.context.warnings == ["powers are made up"]


def test_seconds_are_those_of_the_run_that_estimated(small, mine):
    inputs = small.inputs(mine)
    inputs.context.folder.put(timings={"estimate": 99.0})
    estimate(inputs)
    assert inputs.context.timings["estimate"] < 99.0
    inputs.context.folder.put(timings={"estimate": 99.0})
    later = small.inputs(mine)
    estimate(later)
    assert later.context.timings["estimate"] == 99.0


def test_damaged_file_is_named(small, mine):
    estimate(small.inputs(mine))
    path = sensitivity_artefact(small.inputs(mine)).path
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ModelFileError, match=r"sensitivity-mine.safetensors is no sensitivity file .* delete it and run again"):
        estimate(small.inputs(mine))

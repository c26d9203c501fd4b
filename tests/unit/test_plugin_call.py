"""One plugin at one stage: its options, the wrappers around it, its answer checked; and what plugins get to call others."""

from pathlib import Path
from typing import Any

import pytest
from gguf_files import matrices, memory_model
from run_fixtures import HOOKS, LOG, SmallRun

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ConfigError, ContractError, CrashError, PluginError
from bitclass3_core.files import sha256_file
from bitclass3_core.plugin.call import OtherStages, StagePlugin, require_stage
from bitclass3_core.plugin.manager import load_plugin
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Sensitivity

MODEL = memory_model(blk__0__attn_q=(16, 256), blk__0__ffn_down=(8, 256))
ASKED: dict[str, Any] = {
    "model": MODEL,
    "architecture": matrices(MODEL),
    "corpus": Corpus((), ()),
    "progress": Silent(),
}
ESTIMATOR = f"""{HOOKS}
from bitclass3_core.options import PluginOptions
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

class Options(PluginOptions):
    efforts = {{"high": {{"power": 9.0}}}}
    power: float = 1.0
    weights: Path | None = None

@hookimpl
def bitclass3_estimate(model, architecture, options: Options):
    {LOG}
    ones = lambda name: TensorSensitivity(linear=Powers(np.full(model.tensors[name].n_in, options.power, np.float32)))
    return Sensitivity({{name: ones(name) for name in architecture.quantizable}}, "mine", 0, 0, "none")
"""
# Asks another estimator, and answers what it says
ASKING = f"""{HOOKS}
@hookimpl
def bitclass3_estimate(model, architecture, corpus, progress, stages):
    {LOG}
    asked = dict(model=model, architecture=architecture, corpus=corpus, progress=progress)
    return stages.plugin("estimate", str(Path(__file__).parent / "other.py"), {{}})(**asked)
"""
AROUND = f"{HOOKS}\n@hookimpl(wrapper=True)\ndef bitclass3_estimate():\n    {LOG}\n    return (yield)\n"
AROUND_SOLVE = AROUND.replace("bitclass3_estimate", "bitclass3_solve")


def estimator(body: str) -> str:
    return f"{HOOKS}\n@hookimpl\ndef bitclass3_estimate(model):\n    {body}\n"


@pytest.fixture
def load(small: SmallRun):
    return lambda name, source: load_plugin(small.plugin(name, source))


@pytest.fixture
def mine(load):
    return load("mine", ESTIMATOR)


def power(answer: Sensitivity) -> float:
    return float(answer.tensors["blk.0.attn_q.weight"].linear.in_power[0])


def test_plugin_gets_its_options_and_its_answer_comes_back(mine):
    assert power(StagePlugin.of("estimate", mine, {"power": 3.0})(**ASKED)) == 3.0


@pytest.mark.parametrize(("effort", "values", "expected"), [("fast", {}, 1.0), ("high", {}, 9.0), ("high", {"power": 2.0}, 2.0)])
def test_effort_sets_what_the_user_did_not(mine, effort, values, expected):
    assert StagePlugin.of("estimate", mine, values, effort).options.power == expected


def test_option_that_it_does_not_have(mine):
    with pytest.raises(ConfigError, match=r"plugin 'mine' has no option 'powr'; did you mean 'power'\?"):
        StagePlugin.of("estimate", mine, {"powr": 3.0})


@pytest.mark.parametrize("ask", [require_stage, lambda plugin, stage: StagePlugin.of(stage, plugin, {})])
def test_plugin_that_does_not_do_the_stage(mine, ask):
    says = r"plugin 'mine' does not implement bitclass3_solve, only estimate; name another for \[solve\]"
    with pytest.raises(PluginError, match=says):
        ask(mine, "solve")


def test_identity_changes_with_version_and_options(load, mine):
    plain, other = (StagePlugin.of("estimate", mine, values).identity for values in ({}, {"power": 2.0}))
    assert plain["estimate_plugin"] == f"mine {mine.version}"
    assert plain != other
    assert plain == StagePlugin.of("estimate", mine, {"power": 1.0}).identity, "a default that is named"
    edited = load("mine", ESTIMATOR + "\nEDITED = True\n")
    assert StagePlugin.of("estimate", edited, {}).identity != plain
    assert StagePlugin.of("estimate", load_plugin("uniform"), {}).identity.keys() == {"estimate_plugin"}


def test_identity_changes_with_a_file_that_an_option_names(mine, tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    first = StagePlugin.of("estimate", mine, {"weights": weights}).identity
    assert first["options"]["weights_sha256"] == sha256_file(weights)
    weights.write_bytes(b"two")
    assert StagePlugin.of("estimate", mine, {"weights": weights}).identity != first


def test_label_names_plugin_options_and_the_wrappers_of_the_stage(load, mine):
    wrappers = [load("around", AROUND), load("elsewhere", AROUND_SOLVE)]
    label = StagePlugin.of("estimate", mine, {"power": 2.0}, wrappers=wrappers).label
    assert label.startswith(f'mine {mine.version} {{"power": 2.0')
    assert label.endswith(f"around {wrappers[0].version}")
    assert "elsewhere" not in label


def test_wrappers_go_around(small, load, mine):
    StagePlugin.of("estimate", mine, {}, wrappers=[load("around", AROUND), load("elsewhere", AROUND_SOLVE)])(**ASKED)
    assert small.logged == ["around", "mine"]


def test_answer_of_another_type(load):
    plugin = StagePlugin.of("estimate", load("wrong", estimator("return {}")), {})
    with pytest.raises(ContractError, match="plugin 'wrong' answered dict to bitclass3_estimate, expected Sensitivity"):
        plugin(**ASKED)


def test_answer_is_checked(load):
    body = "from bitclass3_core.sensitivity import Sensitivity\n    return Sensitivity({}, 'x', 0, 0, '')"
    plugin = StagePlugin.of("estimate", load("lazy", estimator(body)), {})
    with pytest.raises(ContractError, match=r"plugin 'lazy' left out tensors: blk.0.attn_q.weight"):
        plugin(**ASKED)


def test_error_of_the_plugin_is_a_crash_in_its_name(load):
    plugin = StagePlugin.of("estimate", load("wild", estimator("raise KeyError('x')")), {})
    with pytest.raises(CrashError, match="plugin 'wild' crashed in bitclass3_estimate") as caught:
        plugin(**ASKED)
    assert isinstance(caught.value.__cause__, KeyError)


def test_hook_with_an_argument_that_there_is_not(load):
    plugin = load("odd", f"{HOOKS}\n@hookimpl\ndef bitclass3_estimate(moddel): ...\n")
    with pytest.raises(PluginError, match="plugin 'odd' does not fit its hook"):
        StagePlugin.of("estimate", plugin, {})(**ASKED)


def test_estimator_that_asks_another_gets_it_inside_the_wrappers_of_the_run(small, load):
    small.plugin("other", ESTIMATOR)
    plugin = StagePlugin.of("estimate", load("asking", ASKING), {}, wrappers=[load("around", AROUND)])
    assert power(plugin(**ASKED)) == 1.0
    assert small.logged == ["around", "asking", "around", "other"]


def test_answer_of_the_other_is_checked(small, load):
    small.plugin("other", estimator("return 5"))
    with pytest.raises(ContractError, match="plugin 'other' answered int to bitclass3_estimate"):
        StagePlugin.of("estimate", load("asking", ASKING), {})(**ASKED)


def test_stages_that_are_given_are_the_ones_that_count(load, small):
    class Uniform:
        def plugin(self, stage: str, name: str, options: dict) -> Any:
            return StagePlugin.of("estimate", load_plugin("uniform"), {})

    answer = StagePlugin.of("estimate", load("asking", ASKING), {})(stages=Uniform(), **ASKED)
    assert answer.estimator == "uniform"
    assert small.logged == ["asking"]


def test_other_stages_know_the_options_of_any_plugin(small):
    stages = OtherStages()
    assert stages.option_names("estimate", small.plugin("mine", ESTIMATOR)) == {"power", "weights"}
    assert stages.option_names("estimate", "uniform") == frozenset()
    for ask in (stages.option_names, lambda stage, name: stages.plugin(stage, name, {})):
        with pytest.raises(PluginError, match="plugin 'uniform' does not implement bitclass3_solve"):
            ask("solve", "uniform")
        with pytest.raises(PluginError, match=r"no plugin named 'unifrom'; did you mean 'uniform'\?"):
            ask("estimate", "unifrom")


def test_other_stages_refuse_an_unknown_option(small):
    with pytest.raises(ConfigError, match="plugin 'mine' has no option 'depth'"):
        OtherStages().plugin("estimate", small.plugin("mine", ESTIMATOR), {"depth": 1})


def test_other_stages_load_a_plugin_once(small):
    stages, name = OtherStages(), small.plugin("mine", ESTIMATOR)
    first = stages.plugin("estimate", name, {}).plugin
    Path(name).write_text(ESTIMATOR + "\nEDITED = True\n")
    assert stages.plugin("estimate", name, {"power": 2.0}).plugin is first, "one run, one version"

"""Levels, bit classes, and the budgets that they come to."""

import bitclass3_bit_classes as bit_classes
import numpy as np
import pytest
from bitclass3_bit_classes import LEVELS, Options, bitclass3_budget, class_weights
from model_shapes import ShapeModel, bpw_of, findings_scores, qwen35_9b, sensitivity_of

from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.layout import fixed_bytes
from bitclass3_core.model import Architecture, TensorInfo
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.runs.config_file import load_config

SEED = {"Q8_0": 8.5, "Q6_K": 6.0, "Q5_K_M": 5.4, "Q4_K_M": 4.8, "Q3_K_S": 3.6}


@pytest.fixture(scope="module")
def nine() -> tuple[ShapeModel, Architecture]:
    model = qwen35_9b()
    return model, Architecture("qwen35", quantizable_tensors(model))


def test_shapes_are_those_of_the_9b(nine):
    model, _ = nine
    assert len(model.tensors) == 427
    assert sum(info.n_params for info in model.tensors.values()) == 8_953_803_264


@pytest.mark.parametrize(("level", "bpw"), SEED.items())
def test_defaults_give_the_published_budgets(nine, level, bpw):
    model, architecture = nine
    budget = bitclass3_budget(model, architecture, sensitivity_of(findings_scores(model)), level, Options())
    assert bpw_of(budget.data_bytes, model) == pytest.approx(bpw, abs=0.01)
    assert budget.label == level
    assert budget.file_bytes is None


def test_budget_is_the_weighted_mean_of_the_classes():
    """By hand: 1024 weights in each class, and 64 that are never quantized (F32: 256 bytes)."""
    names = ("blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight")
    infos = {name: TensorInfo(name, (4, 256), "BF16") for name in names} | {
        "output_norm.weight": TensorInfo("output_norm.weight", (64,), "F32")
    }
    model = ShapeModel(infos)
    architecture = Architecture("test", frozenset(names))
    sensitivity = sensitivity_of({names[0]: 8.0, names[1]: 1.0, names[2]: 0.08}, ())
    options = Options(levels={"mine": (8.0, 4.0, 2.0)})
    assert class_weights(model, architecture, sensitivity.scores(), options) == [1024, 1024, 1024]
    assert fixed_bytes(model, architecture.quantizable) == 256
    assert bitclass3_budget(model, architecture, sensitivity, "MINE", options).data_bytes == 1024 * (8 + 4 + 2) // 8 + 256


def test_more_sensitive_weights_get_more_bits(nine):
    model, architecture = nine
    scores = findings_scores(model)
    more = {name: 0.6 if "ffn_gate" in name else score for name, score in scores.items()}
    less = {name: 0.001 if "ffn_gate" in name else score for name, score in scores.items()}
    sizes = [bitclass3_budget(model, architecture, sensitivity_of(s), "Q4_K_M", Options()).data_bytes for s in (less, scores, more)]
    assert sizes == sorted(set(sizes))


def test_levels_rise_in_every_class():
    bits = np.array(list(LEVELS.values()))
    assert (np.diff(bits, axis=0) <= 0).all()
    assert (np.diff(bits, axis=1) <= 0).all()


def test_thresholds_belong_to_the_class_above():
    options = Options(high=0.5, middle=0.1, unscored="low")
    assert [bit_classes.bit_class(score, options) for score in (1.0, 0.5, 0.49, 0.1, 0.09, None)] == [0, 0, 1, 1, 2, 2]


def test_unknown_level_and_none(nine):
    model, architecture = nine
    sensitivity = sensitivity_of(findings_scores(model))
    with pytest.raises(ConfigError, match=r"unknown level 'Q4_KM'; did you mean 'Q4_K_M'\? known: Q2_K"):
        bitclass3_budget(model, architecture, sensitivity, "Q4_KM", Options())
    with pytest.raises(ConfigError, match="no level; give --level NAME, known: Q8_0, Q6_K"):
        bitclass3_budget(model, architecture, sensitivity, None, Options())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"high": 0.1, "middle": 0.2}, r"middle \(0.2\) must not be above high \(0.1\)"),
        ({"levels": {"X": (4, 0, 1)}}, "the bits of level X must lie above 0"),
        ({"levels": {"X": (4, 3)}}, "Field required"),
        ({"unscored": "none"}, "Input should be"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Options(**options)


def test_level_chooses_the_plugin_and_is_checked_before_anything_runs():
    assert load_config(flags={("budget", "level"): "Q4_K_M"}).budget.plugin == "bit-classes"
    assert load_config(settings=["budget.level=Q4_K_M", "budget.high=0.4"]).budget.options == {"high": 0.4}
    with pytest.raises(ConfigError, match=r"unknown level 'Q9_K'"):
        StageRunner(load_config(flags={("budget", "level"): "Q9_K"})).check_level()


def test_level_of_a_plugin_that_knows_none():
    stages = StageRunner(load_config(settings=["budget.plugin=fixed", "budget.level=Q4_K_M", "estimate.plugin=uniform"]))
    with pytest.raises(ConfigError, match="budget plugin 'fixed' knows no levels, got Q4_K_M"):
        stages.budget(None, None, None)


@pytest.mark.parametrize(
    "other", ["budget.target_bpw=4.8", "budget.target_kld=0.03", "budget.fit_vram=24GiB", "budget.target_size=1GiB"]
)
def test_contradictory_targets(other):
    with pytest.raises(ConfigError, match=r"key 'budget': give one target, not 2 \(level, "):
        load_config(settings=["budget.level=Q4_K_M", other])


def test_target_on_the_command_line_replaces_the_files(tmp_path):
    pipeline = tmp_path / "p.toml"
    pipeline.write_text('[budget]\nfit_vram = "24GiB"\nctx = 4096\n')
    config = load_config(pipeline, {("budget", "level"): "Q4_K_M"})
    assert (config.budget.plugin, config.budget.level, config.budget.options) == ("bit-classes", "Q4_K_M", {})
    pipeline.write_text('[budget]\nlevel = "Q4_K_M"\n')
    assert load_config(pipeline, {("budget", "options", "target_bpw"): 4.0}).budget.plugin == "fixed"
    pipeline.write_text('[budget]\nplugin = "bit-classes"\nlevel = "Q4_K_M"\nhigh = 0.4\n')
    assert load_config(pipeline, {("budget", "level"): "Q6_K"}).budget.options == {"high": 0.4}

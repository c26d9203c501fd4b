"""The pipeline as text: file, flags and --set make one checked object."""

from pathlib import Path

import pytest

from bitclass3_core.errors import ConfigError, PluginError
from bitclass3_core.runs.config_file import load_config, parse_setting

PIPELINE = """
out = "run"
threads = 3
[model]
hf = "model"
gguf = "model/model-bf16.gguf"
[corpus]
calibration = ["a.txt", "b.jsonl"]
[budget]
target_bpw = 4.8
[qtypes]
menu = ["Q4_K", "Q6_K"]
pins = { "output\\\\.weight" = "Q6_K" }
[estimate]
plugin = "uniform"
[solve]
plugin = "greedy"
[export]
plugin = "recipe"
"""


@pytest.fixture
def pipeline(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "pipeline.toml"
        path.write_text(text)
        return path

    return write


def test_defaults():
    config = load_config()
    assert (config.estimate.plugin, config.measure.plugin, config.solve.plugin) == ("kl-hessian", "weighted-error", "ilp")
    assert (config.budget.plugin, config.evaluate.plugin, config.baseline.plugin) == ("fixed", "torch", "stock")
    assert (config.export.plugin, config.qtypes.menu, config.out, config.threads) == (["gguf", "recipe"], "default", None, 0)


def test_file_and_flags_make_the_same_object(pipeline, tmp_path):
    flags = {
        ("out",): Path("run"),
        ("threads",): 3,
        ("model", "hf"): tmp_path / "model",
        ("model", "gguf"): tmp_path / "model" / "model-bf16.gguf",
        ("corpus", "calibration"): [tmp_path / "a.txt", tmp_path / "b.jsonl"],
        ("budget", "options", "target_bpw"): 4.8,
    }
    settings = ['qtypes.menu=["Q4_K", "Q6_K"]', 'qtypes.pins={"output\\\\.weight" = "Q6_K"}']
    assert load_config(pipeline(PIPELINE)) == load_config(None, flags, ["uniform", "greedy", "recipe"], settings)


def test_paths_are_relative_to_the_file(pipeline, tmp_path):
    config = load_config(pipeline(PIPELINE))
    assert config.model.hf == tmp_path / "model"
    assert config.corpus.calibration == [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    assert config.out == Path("run")


def test_absolute_paths_stay(pipeline):
    assert load_config(pipeline('[model]\nhf = "/somewhere/model"')).model.hf == Path("/somewhere/model")


def test_plugin_files_are_relative_to_the_file(pipeline, tmp_path):
    text = 'wrappers = ["w.py", "named"]\n[solve]\nplugin = "s.py"\n[export]\nplugin = ["gguf", "sub/e.py"]\n[baseline]\nplugin = "b.py"'
    config = load_config(pipeline(text))
    assert config.solve.plugin == str(tmp_path / "s.py")
    assert config.export.plugin == ["gguf", str(tmp_path / "sub" / "e.py")]
    assert config.baseline.plugin == str(tmp_path / "b.py")
    assert config.wrappers == [str(tmp_path / "w.py"), "named"]


def test_flags_beat_the_file_and_settings_beat_flags(pipeline):
    path = pipeline(PIPELINE)
    assert load_config(path, {("threads",): 5}).threads == 5
    assert load_config(path, {("threads",): 5}, settings=["threads=7"]).threads == 7


def test_target_on_the_command_line_replaces_the_file_s(pipeline):
    config = load_config(pipeline(PIPELINE), {("budget", "options", "target_size"): "3GiB"})
    assert config.budget.options == {"target_size": "3GiB"}


def test_plugin_on_the_command_line_drops_the_other_s_options(pipeline):
    path = pipeline('[solve]\nplugin = "ilp"\noptions = { time_limit = 3 }')
    assert load_config(path, plugins=["greedy"]).solve.options == {}
    assert load_config(path, plugins=["ilp"]).solve.options == {"time_limit": 3}


def test_options_without_a_plugin_are_the_default_plugin_s(pipeline):
    config = load_config(pipeline("[estimate]\noptions = { n_tokens = 4096 }"))
    assert (config.estimate.plugin, config.estimate.options) == ("kl-hessian", {"n_tokens": 4096})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=4096", 4096),
        ("a.b=0.5", 0.5),
        ("a.b=true", True),
        ('a.b="4"', "4"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=Q4_K_M", "Q4_K_M"),
        ("a.b=15.3GiB", "15.3GiB"),
        ("a.b=path/to=x", "path/to=x"),
        ("a.b=", ""),
    ],
)
def test_settings_are_typed(text, value):
    path, found = parse_setting(text)
    assert (path, found, type(found)) == (["a", "b"], value, type(value))


@pytest.mark.parametrize("text", ["n_tokens", "=5", " =5"])
def test_setting_without_key_or_value(text):
    with pytest.raises(ConfigError, match=f"--set '{text}' is not understood; write it like estimate.options.n_tokens=4096"):
        parse_setting(text)


def test_setting_through_something_that_is_no_table():
    with pytest.raises(ConfigError, match=r"key 'threads.x' cannot be set: 'threads' is no table"):
        load_config(settings=["threads=3", "threads.x=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tread = 1", "unknown key 'tread'; did you mean 'threads'"),
        ("[modle]\nhf = 'x'", "unknown key 'modle'; did you mean 'model'"),
        ("[model]\nguff = 'x'", r"unknown key 'model\.guff'; did you mean 'gguf'\? known: allow_quantized_source, gguf, hf"),
        ("[qtypes]\nmenue = 'k'", r"unknown key 'qtypes\.menue'; did you mean 'menus?'"),
        ("[solve]\nplugin = 'ilp'\noption = {}", r"unknown key 'solve\.option'; did you mean 'options'"),
        ("[export]\nplugin = 'gguf'\noption = {}", r"unknown key 'export\.option'; did you mean 'options'"),
        ("effort = 'huge'", "key 'effort': input should be 'fast', 'normal' or 'high', got 'huge'"),
        ("threads = -1", "key 'threads': input should be greater than or equal to 0, got -1"),
        ("threads = 'many'", "key 'threads': input should be a valid integer, .* got 'many'"),
        ("[corpus]\ncalibration = 'a.txt'", r"key 'corpus\.calibration': input should be a valid list, got '.*a\.txt'"),
        ("solve = 'ilp'", "key 'solve': input should be a valid dictionary.*, got 'ilp'"),
        ("[solve]\nplugin = 3", r"key 'solve\.plugin': input should be a valid string, got 3"),
        ("[budget]\noptions = 3\ntarget_bpw = 4", r"key 'budget\.options': input should be a valid dictionary, got 3"),
    ],
)
def test_mistakes_in_the_file(pipeline, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(pipeline(text))


def test_unknown_key_in_a_setting():
    with pytest.raises(ConfigError, match=r"unknown key 'estimate\.option'; did you mean 'options'\? known: options, plugin"):
        load_config(settings=["estimate.option.n_tokens=1"])


def test_bad_toml(pipeline):
    with pytest.raises(ConfigError, match=r"pipeline\.toml is no valid TOML: .*line 1"):
        load_config(pipeline("[model\nhf = 3"))


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"p\.toml is no valid TOML"):
        load_config(tmp_path / "p.toml")


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"pipeline file .*p\.toml does not exist; check the path"):
        load_config(tmp_path / "p.toml")


def test_folder_as_pipeline(tmp_path):
    with pytest.raises(ConfigError, match=r"pipeline file .* cannot be read: Is a directory"):
        load_config(tmp_path)


def test_two_plugins_for_one_stage():
    with pytest.raises(ConfigError, match=r"two plugins for the stage 'solve' \(ilp and greedy\); name one"):
        load_config(plugins=["ilp", "greedy"])


def test_several_exporters_may_be_named():
    assert load_config(plugins=["recipe", "gguf"]).export.plugin == ["recipe", "gguf"]


def test_plugin_into_something_that_is_no_table(pipeline):
    with pytest.raises(ConfigError, match=r"key 'solve' is no table; write \[solve\] plugin = 'greedy'"):
        load_config(pipeline("solve = 'ilp'"), plugins=["greedy"])


def test_unknown_plugin():
    with pytest.raises(PluginError, match="no plugin named 'gredy'; did you mean 'greedy'"):
        load_config(plugins=["gredy"])


def test_plugin_of_several_stages_must_be_placed_by_hand(tmp_path):
    path = tmp_path / "both.py"
    path.write_text(
        "from bitclass3_core import hookimpl\n"
        "@hookimpl\ndef bitclass3_solve(problem): ...\n"
        "@hookimpl\ndef bitclass3_estimate(model): ...\n"
    )
    with pytest.raises(
        ConfigError, match=r"implements several stages \(estimate, solve\); name the stage: --set estimate\.plugin="
    ):
        load_config(plugins=[str(path)])


def test_wrapper_goes_around_all_stages(tmp_path):
    path = tmp_path / "timer.py"
    path.write_text("from bitclass3_core import hookimpl\n@hookimpl(wrapper=True)\ndef bitclass3_solve():\n    return (yield)\n")
    config = load_config(plugins=[str(path)])
    assert (config.wrappers, config.solve.plugin) == ([str(path)], "ilp")


def test_options_of_several_exporters_are_by_name(pipeline):
    config = load_config(pipeline('[export]\nplugin = ["gguf", "recipe"]\noptions.gguf.threads = 2'))
    assert (config.export.options_of("gguf"), config.export.options_of("recipe")) == ({"threads": 2}, {})
    assert load_config(pipeline('[export]\nplugin = "gguf"\noptions.threads = 2')).export.options_of("gguf") == {"threads": 2}

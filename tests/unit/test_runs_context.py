"""What runs of one folder share, and what a run that is only tried leaves out."""

from pathlib import Path

import pytest
from run_fixtures import Heard

from bitclass3_core import machine
from bitclass3_core.errors import ConfigError
from bitclass3_core.progress import Silent
from bitclass3_core.run_config import ModelSection, RunConfig
from bitclass3_core.runs.context import Context, folder_of, use_machine
from bitclass3_core.runs.folder import RunFolder


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(RunFolder(tmp_path), Heard(), "run")


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        (RunConfig(model=ModelSection(gguf=Path("models/Tiny-BF16.gguf"))), "out/Tiny-BF16"),
        (RunConfig(model=ModelSection(hf=Path("models/Tiny"), gguf=Path("x.gguf"))), "out/Tiny"),
        (RunConfig(), "out/run"),
        (RunConfig(model=ModelSection(gguf=Path("x.gguf")), out=Path("here")), "here"),
    ],
)
def test_folder_is_the_named_one_or_called_after_the_model(config, folder):
    assert folder_of(config) == Path(folder)


def test_folder_of_a_model_that_is_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder_of(RunConfig(model=ModelSection(hf=Path()))) == Path("out") / tmp_path.name


def test_missing_folder_of_llama_cpp(tmp_path):
    config = RunConfig(llama_cpp=tmp_path / "nothing", out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"llama.cpp folder .*nothing does not exist; check --llama-cpp"):
        Context.of(config, Silent(), "run")
    assert not (tmp_path / "out").exists()


def test_process_uses_the_threads_and_the_llama_cpp_of_the_run(tmp_path, monkeypatch, same_machine):
    (tmp_path / "llama.cpp").mkdir()
    monkeypatch.chdir(tmp_path)
    use_machine(RunConfig(threads=3, llama_cpp=Path("llama.cpp")))
    assert machine.default_threads(0) == 3
    assert machine.llama_cpp_folder() == tmp_path / "llama.cpp", "absolute: programs run in other folders"


def test_timings_of_the_run_before_are_taken_over(tmp_path, same_machine):
    RunFolder(tmp_path).put(timings={"estimate": 12.5})
    assert Context.of(RunConfig(out=tmp_path), Silent(), "run").timings == {"estimate": 12.5}


def test_warnings_are_said_and_kept(context):
    context.warn("mind the gap")
    assert context.warnings == context.progress.warned == ["mind the gap"]


def test_run_aside_leaves_no_timings_and_no_warnings_but_shares_what_is_made(context):
    aside = context.aside()
    with aside.timed("solve", ["solve"]):
        aside.warn("not to be heard")
        aside.progress.say("nor this")
    assert (context.timings, context.warnings) == ({}, [])
    assert (context.progress.said, context.progress.warned) == ([], [])
    assert aside.folder is context.folder
    assert aside.results is context.results
    assert aside.plugins is context.plugins


def test_seconds_are_those_of_the_run_that_called_the_plugin(context):
    context.timings["estimate"] = 99.0
    with context.timed("estimate", called=[]):
        pass
    assert context.timings["estimate"] == 99.0, "loaded: the earlier run's seconds stay"
    with context.timed("estimate", called=["measure", "estimate"]):
        pass
    assert context.timings["estimate"] < 99.0


def test_plugin_may_be_called_within_the_block(context):
    context.timings["solve"] = 99.0
    called: set[str] = set()
    with context.timed("solve", called):
        called.add("solve")
    assert context.timings["solve"] < 99.0


def test_stage_without_earlier_seconds_has_some(context):
    with context.timed("report", called=[]):
        pass
    assert 0 <= context.timings["report"] < 99.0


def test_stage_that_fails_has_no_seconds(context):
    with pytest.raises(RuntimeError), context.timed("solve", ["solve"]):
        raise RuntimeError
    assert context.timings == {}

"""Every key of a pipeline file is obeyed by a run that is started from Python, as by the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import CALIBRATION, EVALUATION, ROOT
from gguf_files import METADATA, write_gguf
from reference import pipeline_keys
from spy_plugin import calls, write_spy, write_wrapper

import bitclass3_core
from bitclass3_core import machine
from bitclass3_core.corpus import read_documents
from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.plugin.stage_table import STAGES
from bitclass3_core.results import Run

HF = ROOT / "tests" / "data" / "llama-tiny"
SHAPES = {
    "token_embd.weight": ((64, 256), "BF16"),
    **{f"blk.{b}.attn_{x}.weight": ((256, 256) if x == "q" else (64, 256), "BF16") for b in range(2) for x in "qkv"},
    **{f"blk.{b}.ffn_down.weight": ((128, 512), "BF16") for b in range(2)},
    "output_norm.weight": ((256,), "F32"),
    "output.weight": ((64, 256), "BF16"),
}
HEADS = {**METADATA, "llama.embedding_length": 256, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 1}
Q0 = "blk.0.attn_q.weight"


@dataclass
class Runner:
    """Runs with the spy in place of every slow plugin; ``folder`` has the files that a check may use."""

    folder: Path
    gguf: Path
    spy: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def settings(self, **keys: Any) -> dict[str, Any]:
        base = {
            "model.gguf": self.gguf,
            "corpus.calibration": [CALIBRATION],
            "corpus.evaluation": [EVALUATION],
            "qtypes.menu": ["Q4_K", "Q8_0"],
            "estimate.plugin": "uniform",
            "evaluate.plugin": str(self.spy),
            "export.plugin": ["gguf"],
            "report.plugin": [str(self.spy)],
            "baseline.plugin": "none",
            "budget.target_bpw": 6.5,
            "out": self.out,
        }
        return {key: value for key, value in {**base, **keys}.items() if value is not None}

    def __call__(self, keys: dict[str, Any]) -> Run:
        return bitclass3_core.run(settings=self.settings(**keys))

    def calls(self, stage: str) -> list[dict[str, Any]]:
        return calls(self.folder, stage)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("model") / "model-bf16.gguf", SHAPES, metadata=HEADS)


@pytest.fixture
def runner(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    yield Runner(tmp_path, gguf, write_spy(tmp_path))
    machine.use()


def obeys_hf(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({"model.hf": HF, "model.gguf": None, "qtypes.menu": "all", "budget.target_bpw": 8.0}).model.hf == HF


def obeys_gguf(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({}).model.path == run.gguf


def obeys_pre_tokenizer(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (run.folder / "hf").mkdir(exist_ok=True)
        (run.folder / "hf" / name).write_bytes((HF / name).read_bytes())
    converted = {"qwen2": run.gguf}
    monkeypatch.setattr("bitclass3_core.sources.open.converted", lambda hf, progress, pre: converted[pre])
    keys = {"model.hf": run.folder / "hf", "model.gguf": None, "model.pre_tokenizer": "qwen2"}
    assert run(keys).model.path == run.gguf


def obeys_allow_quantized(run: Runner, _: pytest.MonkeyPatch) -> None:
    again = {"model.gguf": run({}).ours.path, "out": run.folder / "again", "budget.target_bpw": 6.0}
    with pytest.raises(ModelFileError, match="already quantized"):
        run(again)
    assert "already quantized" in run({**again, "model.allow_quantized_source": True}).warnings[0]


def obeys_calibration(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert len(run({}).corpus.calibration) == len(read_documents(CALIBRATION))


def obeys_evaluation(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({"corpus.evaluation": [], "keep": "all"}).corpus.evaluation  # then half of the calibration's
    assert run.calls("evaluate")[0]["documents"] == (len(read_documents(CALIBRATION)) + 1) // 2


def text(run: Runner, name: str) -> Path:
    path = run.folder / f"{name}.txt"
    path.write_text(f"{name} is a text of its own. " * 400)
    return path


def obeys_selection(run: Runner, _: pytest.MonkeyPatch) -> None:
    path = text(run, "selection")
    assert run({"select.enabled": True, "corpus.selection": [path]}).corpus.selection == tuple(read_documents(path))


def obeys_imatrix_text(run: Runner, _: pytest.MonkeyPatch) -> None:
    path = text(run, "imatrix")
    keys = {"corpus.imatrix": [path], "imatrix.plugin": str(run.spy)}
    assert run(keys).corpus.imatrix == tuple(read_documents(path))
    assert run.calls("estimate") == [{**run.calls("estimate")[0], "calibration": len(read_documents(path)), "imatrix": 0}]


def obeys_menu(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert set(run({"qtypes.menu": ["Q5_0", "Q8_0"]}).ours.allocation.qtypes.values()) <= {"Q5_0", "Q8_0", "BF16"}


def obeys_pins(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({"qtypes.pins": {"attn_q": "Q6_K"}}).ours.allocation.qtypes[Q0] == "Q6_K"


def obeys_floors(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({"qtypes.floors": {"ffn_down": "Q8_0"}}).ours.allocation.qtypes["blk.0.ffn_down.weight"] == "Q8_0"


def obeys_menus(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({"qtypes.menus": {"attn_q": ["Q5_K"]}}).ours.allocation.qtypes[Q0] in ("Q5_K", "BF16")


def obeys_groups(run: Runner, _: pytest.MonkeyPatch) -> None:
    types = run({"qtypes.groups": ["qkv"]}).ours.allocation.qtypes
    assert len({types[f"blk.0.attn_{x}.weight"] for x in "qkv"}) == 1
    assert any("group 'qkv'" in line for line in run({"qtypes.groups": ["qkv"]}).constraints)


def obeys_gpu_budget(run: Runner, _: pytest.MonkeyPatch) -> None:
    done = run({"gpu.budget": "400KiB"})
    assert any("GPU budget 400KiB" in line for line in done.constraints)
    assert (run.out / f"{done.ours.name}.override_tensor.txt").is_file()


def obeys_gpu_tensors(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert "GPU budget 400KiB for 2 tensors" in run({"gpu.budget": "400KiB", "gpu.tensors": ["attn_q"]}).constraints


def obeys_plugin(stage: str) -> Callable[[Runner, pytest.MonkeyPatch], None]:
    def check(run: Runner, _: pytest.MonkeyPatch) -> None:
        target = {"budget.target_bpw": None} if stage == "budget" else {}
        run({f"{stage}.plugin": str(run.spy), **target})
        assert run.calls(stage), f"the plugin of [{stage}] was not called"

    return check


def obeys_options(stage: str) -> Callable[[Runner, pytest.MonkeyPatch], None]:
    def check(run: Runner, _: pytest.MonkeyPatch) -> None:
        target = {"budget.target_bpw": None} if stage == "budget" else {}
        run({f"{stage}.plugin": str(run.spy), f"{stage}.options": {"x": 5}, **target})
        assert {call["x"] for call in run.calls(stage)} == {5}

    return check


def obeys_level(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert run({"budget.target_bpw": None, "budget.level": "Q5_K_M"}).ours.name == "model-Q5_K_M"


def obeys_target_kld(run: Runner, _: pytest.MonkeyPatch) -> None:
    done = run({"budget.target_bpw": None, "budget.target_kld": 1e-3})
    evaluation = done.ours.evaluation
    assert evaluation is not None
    assert evaluation.mean_kld + 1.645 * evaluation.se_kld <= 1e-3
    assert len(run.calls("evaluate")) > 1


def obeys_baseline(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert [c.kind for c in run({"baseline.plugin": "stock"}).candidates] == ["ours", "stock"]
    assert [c.kind for c in run({"out": run.folder / "alone"}).candidates] == ["ours"]


def obeys_baseline_options(run: Runner, _: pytest.MonkeyPatch) -> None:
    done = run({"baseline.plugin": "stock", "baseline.options": {"ftype": "Q4_0"}})
    assert done.candidates[1].name == "model-stock-Q4_0"


def chosen(run: Runner, **keys: Any) -> list[str]:
    """What was measured to choose, without what ``keys`` leaves out."""
    settings = {"select.enabled": True, "select.variations": {}, **{key.replace("__", "."): value for key, value in keys.items()}}
    selections = run(settings).selections
    return [contender.how.split()[0] for selection in selections.values() for contender in selection.contenders]


def obeys_select(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert sorted(chosen(run)) == ["ours", "stock"]
    assert chosen(run, select__enabled=False) == []


def obeys_select_stock(run: Runner, _: pytest.MonkeyPatch) -> None:
    assert chosen(run, select__stock=False) == ["ours"]


def obeys_variations(run: Runner, _: pytest.MonkeyPatch) -> None:
    variations = {"fives": ["qtypes.menu=Q5_K,Q8_0"], "sixes": ['qtypes.menu=["Q6_K", "Q4_0"]']}
    assert "sixes" in chosen(run, select__variations={"sixes": variations["sixes"]})


def obeys_mixes(run: Runner, _: pytest.MonkeyPatch) -> None:
    settings = {"select.enabled": True, "select.variations": {}, "select.mixes": 2}
    run(settings)
    assert {name for call in run.calls("evaluate") for name in call["candidates"] if "-mix" in name} >= {"model-6.50bpw-mix01"}


def obeys_imatrix_plugin(run: Runner, _: pytest.MonkeyPatch) -> None:
    run({"corpus.imatrix": [text(run, "imatrix")], "imatrix.plugin": str(run.spy)})
    assert len(run.calls("estimate")) == 1


def obeys_imatrix_options(run: Runner, _: pytest.MonkeyPatch) -> None:
    run({"corpus.imatrix": [text(run, "imatrix")], "imatrix.plugin": str(run.spy), "imatrix.options": {"x": 4}})
    assert run.calls("estimate")[0]["x"] == 4


def obeys_multipliers(run: Runner, _: pytest.MonkeyPatch) -> None:
    before = run({}).costs.costs[Q0]["Q4_K"].cost
    assert run({"cost_multipliers": {"attn_q": 3.0}}).costs.costs[Q0]["Q4_K"].cost == pytest.approx(3 * before)


def obeys_wrappers(run: Runner, _: pytest.MonkeyPatch) -> None:
    run({"wrappers": [str(write_wrapper(run.folder))]})
    assert (run.folder / "wrapped.txt").read_text() == "estimate\n"


def obeys_effort(run: Runner, _: pytest.MonkeyPatch) -> None:
    run({"export.plugin": [str(run.spy)], "effort": "normal"})
    assert {call["x"] for call in run.calls("export")} == {7}


def obeys_out(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    run({"out": run.folder / "elsewhere"})
    assert (run.folder / "elsewhere" / "run.json").is_file()
    monkeypatch.chdir(run.folder)
    run({"out": None})
    assert (run.folder / "out" / "model-bf16" / "run.json").is_file()


def obeys_keep(run: Runner, _: pytest.MonkeyPatch) -> None:
    left = {}
    for keep in ("all", "stock", "shipped", "none"):
        out = run.folder / keep
        run({"keep": keep, "baseline.plugin": "stock", "out": out})
        left[keep] = len([path for path in out.glob("*.gguf") if path.name != "imatrix.gguf"])
    assert left == {"all": 2, "stock": 2, "shipped": 1, "none": 0}


def obeys_threads(run: Runner, _: pytest.MonkeyPatch) -> None:
    run({"measure.plugin": str(run.spy), "threads": 1})
    assert {call["threads"] for call in run.calls("measure")} == {1}
    run({"measure.plugin": str(run.spy), "measure.options": {"x": 1}, "threads": 3})
    assert run.calls("measure")[-1]["threads"] == 3


def obeys_llama_cpp(run: Runner, _: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"llama\.cpp folder .*gone does not exist"):
        run({"llama_cpp": run.folder / "gone"})
    (run.folder / "llama").mkdir()
    run({"llama_cpp": run.folder / "llama"})
    assert {call["llama_cpp"] for call in run.calls("evaluate")} == {str(run.folder / "llama")}


CHECKS: dict[str, Callable[[Runner, pytest.MonkeyPatch], None]] = {
    "model.hf": obeys_hf,
    "model.gguf": obeys_gguf,
    "model.pre_tokenizer": obeys_pre_tokenizer,
    "model.allow_quantized_source": obeys_allow_quantized,
    "corpus.calibration": obeys_calibration,
    "corpus.evaluation": obeys_evaluation,
    "corpus.selection": obeys_selection,
    "corpus.imatrix": obeys_imatrix_text,
    "qtypes.menu": obeys_menu,
    "qtypes.pins": obeys_pins,
    "qtypes.floors": obeys_floors,
    "qtypes.menus": obeys_menus,
    "qtypes.groups": obeys_groups,
    "gpu.budget": obeys_gpu_budget,
    "gpu.tensors": obeys_gpu_tensors,
    **{f"{stage}.plugin": obeys_plugin(stage) for stage in STAGES},
    **{f"{stage}.options": obeys_options(stage) for stage in STAGES},
    "budget.level": obeys_level,
    "budget.target_kld": obeys_target_kld,
    "baseline.plugin": obeys_baseline,
    "baseline.options": obeys_baseline_options,
    "select.enabled": obeys_select,
    "select.stock": obeys_select_stock,
    "select.variations": obeys_variations,
    "select.mixes": obeys_mixes,
    "imatrix.plugin": obeys_imatrix_plugin,
    "imatrix.options": obeys_imatrix_options,
    "cost_multipliers": obeys_multipliers,
    "wrappers": obeys_wrappers,
    "effort": obeys_effort,
    "out": obeys_out,
    "keep": obeys_keep,
    "threads": obeys_threads,
    "llama_cpp": obeys_llama_cpp,
}


def test_every_key_is_checked_here() -> None:
    assert set(CHECKS) == {key for key, _, _ in pipeline_keys()}


@pytest.mark.parametrize("key", CHECKS)
def test_a_run_obeys(key: str, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    CHECKS[key](runner, monkeypatch)

"""Ladders and selection from end to end, with kernels and files but without torch: the evaluator counts bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import CALIBRATION, EVALUATION
from counting_evaluator import SOURCE
from gguf_files import METADATA, write_gguf

from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import file_bytes
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.release.ladder import Ladder, exit_code, parse_levels
from bitclass3_core.release.plan import plan_of
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import Pipeline

LEVELS = "Q8_0,6.0,Q3_K_S,170KB"
MENU = ["Q2_K", "Q4_K", "Q6_K", "Q8_0"]
ROLES = {"attn_q": (256, 256), "attn_k": (64, 256), "attn_v": (64, 256), "ffn_up": (256, 256), "ffn_down": (128, 512)}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    """About 500 thousand weights in two blocks."""
    shapes = {f"blk.{block}.{role}.weight": (shape, "BF16") for block in range(2) for role, shape in ROLES.items()}
    shapes = {
        "token_embd.weight": ((64, 256), "BF16"),
        **shapes,
        "output_norm.weight": ((256,), "F32"),
        "output.weight": ((64, 256), "BF16"),
    }
    metadata = {**METADATA, "llama.embedding_length": 256, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 1}
    return write_gguf(tmp_path_factory.mktemp("model") / "model-bf16.gguf", shapes, metadata=metadata)


def flags_of(gguf: Path, out: Path) -> dict[tuple[str, ...], Any]:
    return {
        ("model", "gguf"): gguf,
        ("corpus", "calibration"): [CALIBRATION],
        ("corpus", "evaluation"): [EVALUATION],
        ("qtypes", "menu"): MENU,
        ("select", "enabled"): True,
        ("select", "variations"): {},
        ("report", "plugin"): ["model-card"],
        ("out",): out,
    }


@pytest.fixture
def evaluator(tmp_path: Path) -> Path:
    path = tmp_path / "counting.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def make(gguf: Path, evaluator: Path, tmp_path: Path) -> Callable[..., Ladder]:
    def ladder(levels: str = LEVELS, keep: str = "shipped", *settings: str) -> Ladder:
        config = load_config(flags=flags_of(gguf, tmp_path / "out"), plugins=["uniform", str(evaluator)], settings=settings)
        return Ladder(config, levels, keep, Silent(), "bitclass3 ladder")

    return ladder


def calls(evaluator: Path) -> list[str]:
    log = evaluator.parent / "calls.txt"
    return log.read_text().splitlines() if log.exists() else []


def ggufs(out: Path) -> set[str]:
    return {path.name for path in out.glob("*.gguf")} - {"imatrix.gguf"}


def test_one_ladder_gives_all_files_and_a_second_makes_nothing_again(make, gguf, evaluator, tmp_path):
    ladder, out = make(), tmp_path / "out"
    run = ladder.run()
    assert exit_code(ladder.levels) == 0
    names = [f"model-{label}.gguf" for label in ("Q8_0", "6.00bpw", "Q3_K_S", "170KB")]
    assert ggufs(out) == set(names)
    # falling sizes, rising divergence; never more bytes than asked
    levels = sorted(ladder.levels, key=lambda level: -level.candidate.file_bytes)
    klds = [level.candidate.evaluation.mean_kld for level in levels]
    assert klds == sorted(klds)
    assert len(set(klds)) == 4
    source = GgufModel(gguf)
    for level in ladder.levels:
        candidate = level.candidate
        assert candidate.file_bytes == candidate.path.stat().st_size == file_bytes(source, candidate.allocation.qtypes)
        contenders = run.selections[candidate.name].contenders
        assert contenders[0].mean_kld == min(contender.mean_kld for contender in contenders), "worse than what it was chosen from"
    assert (out / names[-1]).stat().st_size <= 170_000
    record = json.loads((out / "ladder.json").read_text())
    assert [entry["file"] for entry in record["levels"]] == names
    assert {entry["status"] for entry in record["levels"]} == {"ok"}
    assert run.ours.name == names[[entry["level"] for entry in record["levels"]].index(record["recommended"])].removesuffix(".gguf")
    first = calls(evaluator)
    written = {name: (out / name).stat().st_mtime_ns for name in names}
    again = make()
    again.run()
    assert calls(evaluator) == first, "nothing is measured again"
    assert written == {name: (out / name).stat().st_mtime_ns for name in names}
    assert {e["level"]: e["evaluation"] for e in again.summary()["levels"]} == {
        e["level"]: e["evaluation"] for e in record["levels"]
    }


def test_card_holds_every_level(make, tmp_path):
    make().run()
    card = (tmp_path / "out" / "README.md").read_text()
    table = card.split("## Available Quantizations")[1].split("##")[0]
    for words in (
        "Q8_0.gguf",
        "6.00bpw.gguf",
        "Q3_K_S.gguf",
        "170KB.gguf",
        "Use Case",
        "Maximum compression",
        "Recommended: `",
        "KL-99.9 %",
    ):
        assert words in table
    assert table.count("was the best") == 4
    assert "Every file beside the smallest stock mix" in card
    assert "stock-" not in table.split("Each file was chosen")[0], "stock mixes are not released"


def test_failed_levels_do_not_stop_the_others(make, evaluator, tmp_path):
    ladder = make("Q8_0,1.0,5.0,30", "shipped", "evaluate.options.fails=5.00bpw")
    ladder.run()
    record = json.loads((tmp_path / "out" / "ladder.json").read_text())["levels"]
    assert [entry["status"] for entry in record] == ["ok", "failed", "failed", "failed"]
    assert "smallest possible is" in record[1]["error"]
    assert "RuntimeError: no evaluation of model-5.00bpw" in record[2]["error"]
    assert "the source's own tensors take" in record[3]["error"]
    assert exit_code(ladder.levels) == 4
    assert "1.0 could not be made" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("beyond", ["1.0", "30"])
def test_the_first_level_may_be_out_of_reach(beyond, make, evaluator, tmp_path):
    ladder = make(f"{beyond},5.0", "shipped")
    ladder.run()
    record = json.loads((tmp_path / "out" / "ladder.json").read_text())["levels"]
    assert [entry["status"] for entry in record] == ["failed", "ok"]
    assert exit_code(ladder.levels) == 4


def test_level_that_the_model_is_too_small_for(make, tmp_path):
    """Rows that only take Q8_0 cannot be Q2_K: every level below fails with code 3, and there is no card."""
    ladder = make("Q3_K_S,Q2_K", "shipped", 'qtypes.menu=["Q8_0"]')
    assert ladder.run() is None
    assert exit_code(ladder.levels) == 3
    assert not (tmp_path / "out" / "README.md").exists()


def test_keep_none_leaves_figures_and_recipes_alone(make, evaluator, tmp_path):
    ladder, out = make("6.0,4.0", "none"), tmp_path / "out"
    run = ladder.run()
    assert ggufs(out) == set()
    assert all(level.candidate.path is None and level.candidate.file_bytes > 0 for level in ladder.levels)
    assert run.ours.evaluation.mean_kld > 0
    assert (out / "model-4.00bpw.tensor_types.txt").is_file()
    before = calls(evaluator)
    again = make("6.0,4.0", "none")
    again.run()
    assert (calls(evaluator), ggufs(out)) == (before, set())
    assert [level.candidate.file_bytes for level in again.levels] == [level.candidate.file_bytes for level in ladder.levels]
    make("6.0,4.0", "shipped").run()  # now the files are wanted: made again, not measured again
    assert ggufs(out) == {"model-6.00bpw.gguf", "model-4.00bpw.gguf"}
    assert calls(evaluator) == before


def test_keep_all_leaves_the_candidates(make, tmp_path):
    make("4.5", "all", 'select.variations={two=[\'qtypes.menu=["Q2_K","Q8_0"]\']}').run()
    assert {"model-4.50bpw.gguf", "model-4.50bpw-two.gguf"} < ggufs(tmp_path / "out")
    assert any("stock" in name for name in ggufs(tmp_path / "out"))


def test_stock_mix_that_wins_ships_under_our_name(make, evaluator, tmp_path):
    ladder, out = make("4.8", "shipped", "evaluate.options.favour=stock"), tmp_path / "out"
    run = ladder.run()
    (level,) = ladder.levels
    selection = run.selections["model-4.80bpw"]
    assert selection.stock_won
    assert {
        name: info.dtype
        for name, info in GgufModel(out / "model-4.80bpw.gguf").tensors.items()
        if name in level.candidate.allocation.qtypes
    } == dict(level.candidate.allocation.qtypes)
    assert level.candidate.allocation.solver == "stock"
    loser = next(contender for contender in selection.contenders if contender.how == "ours")
    assert loser.difference[0] == pytest.approx(loser.mean_kld - selection.winner.mean_kld, rel=1e-4)
    assert loser.difference[0] > 0
    card = (out / "README.md").read_text()
    assert f"llama.cpp's own {selection.winner.how} mix was the best and **is what this file holds**" in card
    assert json.loads((out / "allocation.json").read_text())["qtypes"] == dict(level.candidate.allocation.qtypes)
    before = calls(evaluator)
    make("4.8", "shipped", "evaluate.options.favour=stock").run()
    assert calls(evaluator) == before, "a choice that was made is not made again"


def test_variation_that_wins_ships_under_our_name(make, tmp_path):
    settings = ('select.variations={two=[\'qtypes.menu=["Q2_K","Q8_0"]\']}', "evaluate.options.favour=-two")
    ladder = make("4.5", "shipped", *settings)
    run = ladder.run()
    assert run.selections["model-4.50bpw"].winner.how == "two"
    assert set(ladder.levels[0].candidate.allocation.qtypes.values()) <= {"Q2_K", "Q8_0", "BF16"}
    assert ggufs(tmp_path / "out") == {"model-4.50bpw.gguf"}
    assert not list((tmp_path / "out").glob("*-two*")), "a variation leaves nothing behind"


def test_costs_that_are_wrong_for_a_role_are_put_right_by_measured_mixes(make, evaluator, tmp_path):
    settings = ("select.mixes=12", "select.stock=false", 'qtypes.menu="k"', "evaluate.options.of_role={ffn_down=8.0, output=0.1}")
    ladder = make("4.5", "shipped", *settings)
    run = ladder.run()
    fitted, ours = run.selections["model-4.50bpw"].contenders
    assert (fitted.how, ours.how) == ("fitted", "ours")
    assert fitted.mean_kld < 0.8 * ours.mean_kld
    assert run.ours.bpw <= 4.5
    multipliers = run.selections["model-4.50bpw"].multipliers
    assert multipliers["ffn_down"] > 3 * multipliers["ffn_up"] > 3 * multipliers["output"]
    assert "the solver's answer to costs fitted on measured mixes was the best" in (tmp_path / "out" / "README.md").read_text()
    assert ggufs(tmp_path / "out") == {"model-4.50bpw.gguf"}
    assert not list((tmp_path / "out").glob("*-mix*")), "mixes leave nothing behind"
    before = calls(evaluator)
    assert 8 < len({line.split()[0] for line in before if "-mix" in line}) <= 12, "each once"
    again = make("4.5", "shipped", *settings).run()
    assert calls(evaluator) == before, "no mix is measured again"
    assert again.ours.allocation.qtypes == run.ours.allocation.qtypes


def test_multipliers_that_are_asked_for_move_bits(make):
    def bits(*settings: str) -> float:
        run = make("4.5", "shipped", "select.enabled=false", *settings).run()
        return qtype(run.ours.allocation.qtypes["blk.0.ffn_down.weight"]).bpw

    assert bits("cost_multipliers.ffn_down=0.01") < bits() < bits("cost_multipliers.ffn_down=100.0")


@pytest.mark.parametrize("name", ["ours", "fitted", "stock-like", "mix1"])
def test_variation_with_the_name_of_another_candidate(make, name):
    with pytest.raises(ConfigError, match=f"a variation cannot be called '{name}'"):
        make("4.5", "shipped", f"select.variations={{{name}=['qtypes.menu=k']}}")


def test_multiplier_of_a_role_that_there_is_not(make):
    with pytest.raises(
        ConfigError, match=r"'cost_multipliers.ffn_dwn': no tensor to quantize is a ffn_dwn; did you mean 'ffn_down'\?"
    ):
        make("4.5", "shipped", "cost_multipliers.ffn_dwn=2.0").run()


def test_stock_mix_that_breaks_a_pin_is_no_candidate(make):
    run = make("4.8", "shipped", 'qtypes.pins={"output\\\\.weight" = "Q8_0"}', "evaluate.options.favour=stock").run()
    assert [contender.how for contender in run.selections["model-4.80bpw"].contenders] == ["ours"]


def test_stock_mix_that_the_gpu_cannot_hold_is_no_candidate(make):
    free = make("4.8", "shipped", "select.variations={}").run().selections["model-4.80bpw"]
    assert [contender.how[:5] for contender in free.contenders] == ["ours", "stock"]
    base = make("4.8").base
    largest = max(base.architecture.quantizable, key=lambda name: base.model.tensors[name].n_params)
    least = base.model.tensors[largest].n_bytes(qtype("Q3_K"))
    split = (f"gpu.budget={least}", f'gpu.tensors=["{largest}"]', "select.variations={}")
    run = make("4.8", "shipped", *split).run()
    assert [contender.how for contender in run.selections["model-4.80bpw"].contenders] == ["ours"]


def test_no_select_ships_the_solvers_answer(make, evaluator, tmp_path):
    ladder = make("4.8", "shipped", "select.enabled=false", "evaluate.options.favour=stock")
    run = ladder.run()
    assert run.selections == {}
    assert ladder.levels[0].candidate.allocation.solver == "ilp"
    assert len({line.split()[1] for line in calls(evaluator)}) == 1, "one text alone"


def test_selection_and_test_read_different_text(make, evaluator, tmp_path):
    ladder = make("4.8")
    ladder.run()
    corpus = ladder.base.corpus
    parts = [{doc.sha256 for doc in part} for part in (corpus.imatrix, corpus.calibration, corpus.selection, corpus.evaluation)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert [len(part) for part in parts] == [0, 30, 15, 15], "uniform reads no text, so none is set apart for an imatrix"


def test_plan_knows_sizes_before_and_types_after(make, tmp_path):
    before = plan_of(make("6.0,170KB,1.0"))
    assert not (tmp_path / "out" / "ladder.json").exists()
    assert [("error" in level, "allocation" in level) for level in before["levels"]] == [
        (False, False),
        (False, False),
        (True, False),
    ]
    assert before["costs_to_measure"] > 0
    ladder = make("6.0,170KB", "shipped", "select.enabled=false")
    ladder.run()
    after = plan_of(make("6.0,170KB,1.0", "shipped", "select.enabled=false"))
    assert after["costs_to_measure"] == 0
    planned = {level["level"]: level.get("file_bytes") for level in after["levels"]}
    assert [planned["6.0"], planned["170KB"]] == [level.candidate.file_bytes for level in ladder.levels]
    assert plan_of(make("6.0,170KB", "all"))["disk_bytes"] > after["disk_bytes"]
    with_mixes, without = (plan_of(make("6.0", "shipped", f"select.mixes={n}"))["disk_bytes"] for n in (20, 0))
    assert with_mixes == 6 / 3 * without, "ours, four mixes and the stock mix; ours, a stock mix to choose and one to compare with"


def test_plan_takes_the_source_for_a_size_that_is_not_known(make):
    unscored = plan_of(make("Q4_K_M", "shipped", "select.enabled=false"))
    source = sum(info.source_bytes for info in make("Q4_K_M").base.model.tensors.values())
    assert unscored["levels"][0]["bytes_of_tensors"] is None
    assert unscored["disk_bytes"] >= source


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("", "no levels"),
        ("Q4_K_M,q4_k_m", "level q4_k_m is given twice"),
        ("4.5,33", "33 asks for 33 bits per weight"),
        ("4 parsecs", "size '4 parsecs' is not understood"),
    ],
)
def test_levels_that_are_refused(levels, words):
    with pytest.raises(ConfigError, match=words):
        parse_levels(levels, load_config())


def test_unknown_level_stops_before_anything_is_computed(make, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown level 'Q9_K'; did you mean"):
        make("Q8_0,Q9_K").run()
    assert not list((tmp_path / "out").glob("sensitivity*"))


def test_target_beside_levels_and_unknown_keep(make):
    with pytest.raises(ConfigError, match="a ladder takes its targets from --levels"):
        make("Q8_0", "shipped", "budget.target_bpw=4.8")
    with pytest.raises(ConfigError, match="unknown --keep 'some'; known: shipped, all, none"):
        make("Q8_0", "some")


def test_run_with_selection_keeps_the_stock_mix_beside_it(gguf, evaluator, tmp_path):
    out = tmp_path / "out"
    config = load_config(flags=flags_of(gguf, out), plugins=["uniform", str(evaluator)], settings=["budget.target_bpw=4.8"])
    pipeline = Pipeline(config, Context.of(config, Silent(), "bitclass3 run"))
    pipeline.run()
    assert len(ggufs(out)) == 2
    assert "Each file was chosen by measured mean KLD" in (out / "README.md").read_text()

"""What a ladder comes to: the level to recommend, one run over all levels, and the values for scripts."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import OURS, STOCK, evaluation, make_run

from bitclass3_core.evaluation import Evaluation
from bitclass3_core.problem import Allocation
from bitclass3_core.release.record import ladder_json, level_json, ppl_change, recommended, release
from bitclass3_core.results import Candidate, Contender, Level, Run, Selection


def figures(name: str, mean_kld: float, ppl: float) -> Evaluation:
    return replace(evaluation(name, mean_kld), ppl=ppl, reference_ppl=10.0)


def level(name: str, n_bytes: int, mean_kld: float, ppl: float) -> Level:
    made = Candidate(
        f"m-{name}", "ours", Allocation({}), Path(f"m-{name}.gguf"), n_bytes, 4.5, 0.01, figures(f"m-{name}", mean_kld, ppl)
    )
    return Level(name, made, asked_bytes=n_bytes, seconds=1.5)


FAILED = Level("Q2_K", error="no allocation fits", exit_code=3)
LEVELS = [level("Q8_0", 800, 0.001, 10.01), level("Q4_K_M", 480, 0.01, 10.08), level("Q3_K_S", 350, 0.05, 10.5), FAILED]


def bare(level: Level) -> Level:
    return replace(level, candidate=replace(level.candidate, evaluation=None))


def run_of(level: Level, *others: Candidate) -> Run:
    return replace(make_run(), candidates=(level.candidate, *others), command=level.name)


def test_change_of_ppl_is_a_share_of_the_sources():
    assert ppl_change(figures("x", 0.1, 10.5)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("levels", "name"),
    [
        (LEVELS, "Q4_K_M"),
        (LEVELS[::-1], "Q4_K_M"),
        ([LEVELS[2], level("Q2_K", 200, 0.2, 12.0)], "Q3_K_S"),
        ([level("Q2_K", 200, 0.2, 10.4), LEVELS[2]], "Q3_K_S"),
        ([level("exact", 300, 0.01, 10.1)], "exact"),
        ([FAILED, bare(LEVELS[2]), bare(LEVELS[0])], "Q3_K_S"),
        ([bare(LEVELS[1]), LEVELS[2]], "Q3_K_S"),
    ],
    ids=[
        "smallest near the source",
        "in any order",
        "none near: lowest KLD",
        "not lowest PPL",
        "at the limit",
        "none measured: first",
        "one measured",
    ],
)
def test_recommended(levels, name):
    assert recommended(levels).name == name


def test_none_is_recommended_where_none_was_made():
    assert recommended([FAILED]) is None
    assert recommended([]) is None
    assert release([FAILED], {}, "command", {}) is None


def test_release_is_the_recommended_run_with_every_level_then_the_stock_mixes():
    stock = make_run().candidates[1]
    runs = {one.name: run_of(one, stock) for one in LEVELS[:3]}
    run = release(LEVELS, runs, "bitclass3 ladder", {"solve": 1.0})
    assert [candidate.name for candidate in run.candidates] == ["m-Q4_K_M", "m-Q8_0", "m-Q3_K_S", STOCK]
    assert (run.command, run.timings, run.levels) == ("bitclass3 ladder", {"solve": 1.0}, tuple(LEVELS))
    assert set(run.differences) == {"m-Q8_0", "m-Q3_K_S", STOCK}
    assert run.differences["m-Q3_K_S"][0] < 0 < run.differences["m-Q8_0"][0], "ours minus the other"


def test_release_holds_the_selections_of_all_levels():
    chosen = Selection((Contender("m-Q8_0", "ours", 800, 0.001, 0.0001),), 512)
    runs = {one.name: run_of(one) for one in LEVELS[:3]}
    runs["Q8_0"] = replace(runs["Q8_0"], selections={"m-Q8_0": chosen})
    assert release(LEVELS, runs, "", {}).selections == {"m-Q8_0": chosen}


def test_files_without_figures_have_no_differences():
    levels = [bare(one) for one in LEVELS[:3]]
    assert release(levels, {one.name: run_of(one) for one in levels}, "", {}).differences == {}


def test_level_that_failed_tells_why():
    assert level_json(FAILED, {}) == {"level": "Q2_K", "status": "failed", "error": "no allocation fits", "exit_code": 3}


def test_level_that_was_made_tells_all():
    chosen = Selection((Contender("m-Q8_0", "ours", 800, 0.001, 0.0001),), 512)
    one = replace(LEVELS[0], baseline="stock Q8_0", difference=(-0.001, 0.0002))
    values = level_json(one, {"m-Q8_0": chosen})
    assert (values["status"], values["file"], values["file_bytes"], values["seconds"]) == ("ok", "m-Q8_0.gguf", 800, 1.5)
    assert values["difference_to_baseline"] == {"mean": -0.001, "se": 0.0002}
    assert values["selection"]["contenders"][0]["how"] == "ours"
    assert values["evaluation"]["mean_kld"] == 0.001
    plain = level_json(bare(LEVELS[0]), {})
    assert (plain["baseline"], plain["difference_to_baseline"], plain["selection"], plain["evaluation"]) == (None,) * 4


def test_file_that_was_deleted_has_its_size():
    values = level_json(replace(LEVELS[0], candidate=replace(LEVELS[0].candidate, path=None)), {})
    assert (values["file"], values["file_bytes"]) == (None, 800)


def test_ladder_json_can_be_read_by_any_parser():
    unsure = replace(LEVELS[0].candidate, evaluation=replace(LEVELS[0].candidate.evaluation, se_kld=math.nan))
    levels = [replace(LEVELS[0], candidate=unsure), FAILED]
    text = json.dumps(ladder_json("Tiny", Path("out/x"), "command", levels, {}), allow_nan=False)
    values = json.loads(text)
    assert (values["model"], values["out"], values["recommended"]) == ("Tiny", "out/x", "Q8_0")
    assert [entry["status"] for entry in values["levels"]] == ["ok", "failed"]
    assert values["levels"][0]["evaluation"]["se_kld"] is None
    assert ladder_json("Tiny", Path("out/x"), "command", [FAILED], {})["recommended"] is None
    assert OURS not in text

"""The file that ships: the best of all that might, measured once, equal ones once, and what cannot be left out."""

import json
from dataclasses import asdict, replace

import pytest
from run_fixtures import SmallRun, said

from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.results import Contender, Selection
from bitclass3_core.runs.select import Choice, choose, files_beside, selection_of, sentence

OURS = "small-6.00bpw"
SELECT = "select.enabled=true"
SMALL = 'small = ["qtypes.menu=[\\"Q4_K\\",\\"Q5_K\\"]"]'
SAME = 'same = ["qtypes.menu=[\\"Q8_0\\",\\"Q4_K\\"]"]'  # the menu of ours in another order
LARGE = 'large = ["qtypes.menu=[\\"Q8_0\\"]"]'  # at 6 bits per weight none fits


def variations(*entries: str) -> str:
    return f"select.variations={{{', '.join(entries)}}}"


def chosen(small: SmallRun, *settings: str) -> Choice:
    """What a run that is started again chooses, without stock mixes."""
    return choose(small.solution(SELECT, "select.stock=false", *settings))


def how(choice: Choice) -> list[str]:
    return [contender.how for contender in choice.selection.contenders]


def test_lowest_mean_kld_wins_and_ships_under_our_name(small):
    choice = chosen(small, variations(SMALL), "evaluate.options.favour=-small")
    assert how(choice) == ["small", "ours"]
    assert (choice.winner.name, choice.winner.kind) == (OURS, "ours")
    assert set(choice.winner.allocation.qtypes.values()) <= {"Q4_K", "Q5_K"}
    best, other = choice.selection.contenders
    assert best.mean_kld < other.mean_kld
    assert best.difference is None
    assert other.difference[0] == pytest.approx(other.mean_kld - best.mean_kld, rel=1e-3)
    assert [made.name for made in choice.candidates] == [f"{OURS}-small"]


def test_ours_ships_where_nothing_is_better(small):
    choice = chosen(small, variations('tiny = ["qtypes.menu=[\\"Q2_K\\"]"]'))
    assert how(choice) == ["ours", "tiny"]
    assert set(choice.winner.allocation.qtypes.values()) <= {"Q4_K", "Q8_0"}


def test_of_equal_ones_the_first_ships(small):
    choice = chosen(small, variations(SMALL), "evaluate.options.of_role={token_embd=0.0, attn_q=0.0, ffn_down=0.0}")
    assert {contender.mean_kld for contender in choice.selection.contenders} == {0.0}
    assert how(choice) == ["ours", "small"]


def test_variation_that_is_infeasible_is_left_out_and_said(small):
    choice = chosen(small, variations(LARGE, SMALL))
    assert sorted(how(choice)) == ["ours", "small"]
    (line,) = (line for line in said(small.progress.said, "select") if line.startswith("no variation"))
    assert line.startswith("no variation large: budget is ")


def test_variation_with_a_wrong_key_is_refused(small):
    with pytest.raises(ConfigError, match=r"unknown key 'qtypes\.menue'"):
        chosen(small, "select.variations={typo = ['qtypes.menue=k']}")


def test_equal_parts_appear_once(small):
    choice = chosen(small, variations(SAME, SMALL))
    assert sorted(how(choice)) == ["ours", "small"]
    assert sorted(small.measured) == [OURS, f"{OURS}-small"]


def test_noted_selection_is_not_measured_again(small):
    settings = (variations(SMALL), "evaluate.options.favour=-small")
    first = chosen(small, *settings)
    measured = small.measured
    again = chosen(small, *settings)
    assert again.selection == first.selection
    assert again.winner.allocation.qtypes == first.winner.allocation.qtypes
    assert small.measured == measured
    assert said(small.progress.said, "select")[-1] == f"{OURS} is up to date"


def test_noted_selection_needs_no_file(small):
    chosen(small, variations(SMALL))
    for path in small.out.glob("*.gguf"):
        path.unlink()
    chosen(small, variations(SMALL))
    assert small.files(".gguf") == set()


@pytest.mark.parametrize(
    "changed", [(variations(SMALL, 'tiny = ["qtypes.menu=[\\"Q2_K\\"]"]'),), (variations(SMALL), "evaluate.options.favour=-small")]
)
def test_selection_is_made_again_where_candidates_or_evaluator_change(small, changed):
    chosen(small, variations(SMALL))
    before = len(small.measured)
    chosen(small, *changed)
    assert len(small.measured) > before


def test_fitted_multipliers_are_kept_with_the_selection(small):
    settings = (
        variations(),
        "select.mixes=3",
        "qtypes.menu=['Q3_K','Q4_K','Q6_K','Q8_0']",
        "evaluate.options.of_role={ffn_down=50.0}",
    )
    first = chosen(small, *settings)
    assert how(first)[0] == "fitted"
    assert set(first.selection.multipliers) == {"attn_q", "ffn_down", "token_embd"}
    assert chosen(small, *settings).selection.multipliers == first.selection.multipliers
    assert json.loads((small.out / "run.json").read_text())["selections"][OURS]["values"]["multipliers"]


def test_largest_stock_mix_that_fits_is_a_candidate(small):
    choice = choose(small.solution(SELECT, variations(), "evaluate.options.favour=stock"))
    assert choice.selection.stock_won
    assert choice.winner.allocation.solver == "stock"
    assert choice.winner.n_data_bytes <= small.solution().budget.data_bytes
    assert choice.candidates[0].name.startswith("small-stock-")


def test_stock_mix_that_breaks_a_constraint_is_left_out_and_said(small):
    choice = choose(small.solution(SELECT, variations(SMALL), 'qtypes.pins={"ffn_down" = "Q8_0"}'))
    assert sorted(how(choice)) == ["ours", "small"]
    assert any("is no candidate, it " in line for line in said(small.progress.said, "select"))


def test_where_no_stock_mix_fits_there_is_none(small, monkeypatch):
    def refuse(self, problem, model, architecture):
        raise InfeasibleError("the smallest mix takes more")

    monkeypatch.setattr(StageRunner, "stock_within", refuse)
    assert how(choose(small.solution(SELECT, variations()))) == ["ours"]
    assert "no stock mix: the smallest mix takes more" in said(small.progress.said, "select")


def test_nothing_is_measured_unless_it_is_asked_for(small):
    choice = choose(small.solution(variations(SMALL)))
    assert (choice.selection, choice.candidates, choice.winner.name) == (None, (), OURS)
    assert small.measured == []


def test_without_text_to_choose_by_ours_ships_with_a_warning(small):
    solution = small.solution(SELECT, corpus={})
    assert choose(solution).selection is None
    assert solution.inputs.context.warnings == ["no text to choose by: our own file ships; give --eval-corpus or --select-corpus"]


@pytest.mark.parametrize(
    ("settings", "n_files"),
    [
        ((), 0),
        (("baseline.plugin=stock",), 1),
        ((SELECT, variations(SMALL)), 2),
        ((SELECT, "select.stock=false", variations(SMALL), "baseline.plugin=stock"), 2),
        ((SELECT, "select.mixes=20", variations()), 4),
        ((SELECT, "select.mixes=20", variations(SMALL, SAME, LARGE), "baseline.plugin=stock"), 6),
    ],
)
def test_files_that_lie_beside_ours(small, settings, n_files):
    assert files_beside(small.config(*settings)) == n_files


def contender(how: str, mean: float, difference: tuple[float, float] | None = None) -> Contender:
    return Contender(f"m-{how}", how, 100, mean, 0.001, difference)


def test_selection_is_read_as_it_was_written():
    for selection in (
        Selection((contender("ours", 0.01), contender("k", 0.02, (0.01, 0.001))), 512, {"attn_q": 0.5}),
        Selection((contender("ours", 0.01), contender("k", 0.02)), 512),
    ):
        assert selection_of(json.loads(json.dumps(asdict(selection)))) == selection


def test_who_ships_in_one_sentence():
    alone = Selection((contender("ours", 0.01),), 1024)
    assert sentence(alone) == "ours ships: mean KLD 0.0100 ± 0.0010 over 1,024 tokens"
    others = (contender("stock Q4_K_S", 0.01), contender("ours", 0.02, (0.01, 0.002)), contender("k", 0.03))
    assert sentence(replace(alone, contenders=others)) == (
        "the stock Q4_K_S mix ships: mean KLD 0.0100 ± 0.0010 over 1,024 tokens; "
        "mean KLD of the others against it: ours +0.0100 ± 0.0020, k +0.0200"
    )

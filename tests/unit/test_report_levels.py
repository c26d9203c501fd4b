"""Card and plots of a ladder: every sentence follows from the figures."""

import re
from dataclasses import replace
from pathlib import Path

import bitclass3_model_card as card
import bitclass3_plots as plots
import pytest
from fake_runs import evaluation, make_run
from matplotlib.image import imread

from bitclass3_core.release.record import recommended
from bitclass3_core.results import Candidate, Contender, Level, Run, Selection

STOCK = "Tiny-1B-stock-Q4_K_M"
SPECS = {
    "Q8_0": (4_900_000, 0.001, 12.105),
    "Q4_K_M": (2_900_000, 0.0123, 12.2),
    "Q3_K_S": (2_100_000, 0.08, 12.9),
}  # bytes, KLD, PPL


def candidate(run: Run, level: str) -> Candidate:
    size, kld, ppl = SPECS[level]
    name = f"Tiny-1B-{level}"
    figures = replace(evaluation(name, kld), ppl=ppl)
    return replace(run.ours, name=name, path=Path(f"{name}.gguf"), file_bytes=size, evaluation=figures)


def ladder_run(stock_wins: bool = False) -> Run:
    """Three levels and one that failed; the source's PPL is 12.1."""
    run = make_run()
    levels = [Level(name, candidate(run, name), 1, STOCK, (-0.01, 0.001)) for name in SPECS]
    levels.append(Level("Q2_K", error="budget is 5 bytes, smallest possible is 6", exit_code=3))
    ours = Contender("Tiny-1B-Q4_K_M", "ours", 2_900_000, 0.0125, 0.0005)
    stock = Contender("Tiny-1B-stock-Q4_K_S", "stock Q4_K_S", 2_890_000, 0.0105, 0.0005)
    order = (
        (stock, replace(ours, difference=(0.002, 0.0002)))
        if stock_wins
        else (ours, replace(stock, mean_kld=0.02, difference=(0.0075, 0.0004)))
    )
    mix = replace(run.candidates[1], name=STOCK, path=Path(f"{STOCK}.gguf"))
    best = recommended(levels)
    files = [best.candidate, *(level.candidate for level in levels if level.candidate and level is not best)]
    return replace(run, candidates=(*files, mix), levels=tuple(levels), selections={"Tiny-1B-Q4_K_M": Selection(order, 2048)})


def section(run: Run, tmp_path: Path, heading: str = "Available Quantizations") -> str:
    card.bitclass3_report(run, tmp_path, card.ModelCardOptions())
    return (tmp_path / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


def test_all_levels_stand_in_the_table_largest_first_and_no_stock_mix(tmp_path: Path) -> None:
    text = section(ladder_run(), tmp_path)
    rows = re.findall(r"^\| \**`([^`]+)`", text, re.MULTILINE)
    assert rows == ["Tiny-1B-Q8_0.gguf", "Tiny-1B-Q4_K_M.gguf", "Tiny-1B-Q3_K_S.gguf", "Tiny-1B-BF16.gguf"]
    uses = re.findall(r"\| ([^|]+) \|$", text, re.MULTILINE)
    assert uses[0] == "Use Case"
    assert uses[2:5] == ["Near-lossless reference", "Balanced quality and size, recommended", "Maximum compression"]
    assert "Q2_K could not be made: budget is 5 bytes" in text.replace("\\_", "_")


def test_recommended_is_the_smallest_within_one_percent(tmp_path: Path) -> None:
    assert "Recommended: `Tiny-1B-Q4_K_M.gguf`, the smallest file whose PPL is within 1 % of the source's (+0.83 %)" in section(
        ladder_run(), tmp_path
    )


def test_no_file_is_within_one_percent() -> None:
    run = make_run()
    far = replace(candidate(run, "Q3_K_S"), evaluation=replace(evaluation("x", 0.2), ppl=14.0))
    assert recommended([Level("Q2_K", far), Level("Q3_K_S", candidate(run, "Q3_K_S"))]).name == "Q3_K_S"
    assert recommended([Level("a", error="no"), Level("b", replace(far, evaluation=None))]).name == "b"
    assert recommended([Level("a", error="no")]) is None


@pytest.mark.parametrize(
    ("stock_wins", "words"),
    [
        (
            False,
            "`Tiny-1B-Q4_K_M`: the solver's answer was the best, 0.01250 ± 0.00050. Others against it: stock Q4\\_K\\_S +0.00750 ± 0.00040.",
        ),
        (
            True,
            "`Tiny-1B-Q4_K_M`: llama.cpp's own stock Q4\\_K\\_S mix was the best and **is what this file holds**, 0.01050 ± 0.00050.",
        ),
    ],
)
def test_card_says_which_candidate_ships_and_by_how_much(tmp_path: Path, stock_wins: bool, words: str) -> None:
    text = section(ladder_run(stock_wins), tmp_path)
    assert words.replace("\\_", "_") in text.replace("\\_", "_")
    assert "over 2,048 tokens of text that neither calibrated it nor is scored in the table" in text


def test_levels_stand_beside_their_stock_mixes(tmp_path: Path) -> None:
    text = section(ladder_run(), tmp_path, "How It Compares")
    assert text.count(f"`{STOCK}.gguf`") == 3
    assert "-0.0100 ± 0.0010" in text


def test_plot_of_levels(tmp_path: Path) -> None:
    written = plots.bitclass3_report(ladder_run(), tmp_path, plots.PlotsOptions())
    assert "levels.png" in {path.name for path in written}
    picture = imread(tmp_path / "plots" / "levels.png")
    assert picture.std() > 0.05
    plots.bitclass3_report(make_run(), tmp_path, plots.PlotsOptions())
    assert not (tmp_path / "plots" / "levels.png").exists(), "a run of one size has none"

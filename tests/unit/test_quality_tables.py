"""The benchmark's page: tables from given results, goals, the figure, the section between its markers."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.quality.goals import against_goal
from benchmarks.quality.peers import PEER, TRIAL, TRIAL_FEEDBACK, Peers, Published, check_recipe, read_published, read_recipe
from benchmarks.quality.plot import quality_figure, write_plot
from benchmarks.quality.report import GROUP, command, quality_lines, write_quality
from benchmarks.quality.results import Cell, FileFacts, Results
from benchmarks.quality.section import markers, with_section
from benchmarks.quality.tables import details, overview, predictions, shortfalls, text_tables
from bitclass3_core.errors import Bitclass3Error, ConfigError, ModelFileError
from bitclass3_core.evaluation import Evaluation

PUBLISHED = {
    ("Q3_K_M", PEER): Published(123_082_080, 0.26554, 0.003728, 0.2139, 2.84, 0.695, 32.78),
    ("Q3_K_M", TRIAL): Published(123_079_040, 0.154461, 0.0027, 0.107, 2.239, 0.762, 29.1),
    ("Q3_K_M", TRIAL_FEEDBACK): Published(123_078_816, 0.12003, 0.0023, 0.076, 2.17, 0.795, 28.1),
}


def evaluation(mean_kld: float, n_chunks: int = 24) -> Evaluation:
    """Figures whose groups of chunks differ by a constant between any two of them."""
    groups = tuple(mean_kld + 0.01 * (i % 3 - 1) for i in range(min(n_chunks, 16)))
    figures = {"median_kld": mean_kld / 2, "p99_kld": 1.0, "p999_kld": 12 * mean_kld, "same_top1": 0.8234, "se_same_top1": 0.01}
    ppl = {"ppl": 26.789, "se_ppl": 0.1, "reference_ppl": 22.5, "se_reference_ppl": 0.1}
    return Evaluation("file", 6120, n_chunks, mean_kld, 0.0023, **figures, **ppl, evaluator="llama-perplexity 1", group_kld=groups)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two sizes on two texts; what is missing: feedback at one size, one file on the second text."""
    made = Results(tmp_path / "results.json")
    made.put_text(GROUP, "wiki", "WikiText-2 test", 24, "key-wiki")
    made.put_text(GROUP, "code", "Code", 12, "key-code")
    files = {"stock": 0.356, "peer": 0.266, "plain": 0.15, "feedback": 0.12}
    for i, (recipe, mean) in enumerate(files.items()):
        made.put_file(f"Q3_K_M/{recipe}", FileFacts("from", f"sha-{recipe}", 123_000_000 + i, 4.25, {"t": "Q3_K"}, seconds=20.0))
        made.put_cell(f"sha-{recipe}", "key-wiki", Cell(evaluation(mean), 60.0))
    made.put_file("Q4_K_M/stock", FileFacts("from", "sha-4", 145_000_000, 5.02, {"t": "Q4_K"}))
    made.put_cell("sha-4", "key-wiki", Cell(evaluation(0.0938), 60.0))
    made.put_cell("sha-4", "key-code", Cell(evaluation(0.05, 12), 30.0))
    return made


def test_the_overview_has_goals_and_what_was_published(results: Results) -> None:
    lines = overview(text_tables(results)[0], PUBLISHED)
    assert lines[0] == "| size of | stock mix | PR #15550 | ours, plain rounding | ours, error feedback | goals: plain; best |"
    row = "| Q3_K_M | 0.356 ± 0.002 | 0.266 ± 0.002 (0.266) | **0.1500 ± 0.0023 (0.154)** | **0.1200 ± 0.0023 (0.12)** |"
    assert lines[2] == f"{row} 0.154, met; 0.105, 14 % above |"
    assert lines[3] == "| Q4_K_M | 0.0938 ± 0.0023 |  |  |  |  |"


def test_predictions_stand_beside_what_was_measured(results: Results) -> None:
    assert predictions(text_tables(results)[0]) == []
    known = results.file("Q3_K_M/plain")
    results.put_file("Q3_K_M/plain", replace(known, predicted=0.12))
    lines = predictions(text_tables(results)[0])
    assert "| Q3_K_M | 0.1200 | 0.1500 ± 0.0023 | 1.25 |" in lines
    assert lines[-1] == "The fitted ratio (geometric mean) is 1.25."
    assert lines[0] in quality_lines(results, text_tables(results), {})


def test_time_of_normal_effort_stands_beside_what_was_set(results: Results) -> None:
    assert "--effort normal" not in quality_lines(results, text_tables(results), {})[-1]
    results.put_facts(seconds={"estimate": 100.0, "measure": 50.0})
    line = quality_lines(results, text_tables(results), {})[-1]
    assert "`--effort normal` (estimate, measure, file) takes 2.8 min;" in line, "100 + 50 + 20 s"
    assert line.endswith("would take 6.5 min."), "3 * 100 + 50 + 2 * 20 s"


def test_details_pair_each_file_with_stock_and_plain(results: Results) -> None:
    lines = details(text_tables(results)[0], PUBLISHED)
    feedback = next(line for line in lines if "error feedback" in line)
    start = "| Q3_K_M | ours, error feedback | 123,000,003 | 4.250 | 0.1200 ± 0.0023 | -0.2360 ± 0.0000 | -0.0300 ± 0.0000 |"
    assert feedback == f"{start} 0.0600 | 1.44 | 82.3 % | 26.79 |"
    stock = next(line for line in lines if "stock mix" in line)
    assert stock.split(" | ")[5:7] == ["", ""]  # paired with nothing
    assert [line.split(" | ")[1] for line in lines[6:8]] == ["*trial, plain rounding*", "*trial, block feedback*"]


def test_another_text_has_neither_goals_nor_published_figures(results: Results) -> None:
    table = text_tables(results)[1]
    assert (table.title, len(table.rows)) == ("Code", 1)
    assert "goals" not in overview(table, PUBLISHED)[0]
    assert not any("trial" in line for line in details(table, PUBLISHED))


def test_fewer_chunks_are_not_held_against_goals_of_more(results: Results) -> None:
    results.put_text(GROUP, "wiki", "WikiText-2 test", 2, "key-wiki")
    assert not any("goals" in line or "(0.154)" in line for line in overview(text_tables(results)[0], PUBLISHED))


def test_a_file_made_again_shows_no_old_figure(results: Results) -> None:
    results.put_file("Q3_K_M/plain", replace(results.file("Q3_K_M/plain"), sha256="new"))  # type: ignore[type-var]
    assert text_tables(results)[0].row("Q3_K_M", "plain") is None


def test_what_is_not_better_is_named(results: Results) -> None:
    table = text_tables(results)[0]
    sentence = shortfalls(table)  # same top-1 is the same everywhere, so no better
    assert sentence.startswith("Where ours is not better than each of the others: Q3_K_M, ours, plain rounding: same top-1 82.3 %")
    assert "mean KLD" not in sentence
    better = [
        row if row.recipe in ("stock", "peer") else replace(row, evaluation=replace(row.evaluation, same_top1=0.9))
        for row in table.rows
    ]
    assert shortfalls(replace(table, rows=better)).endswith("same top-1, at Q3_K_M.")
    worse = [replace(row, evaluation=replace(row.evaluation, mean_kld=0.3)) if row.recipe == "plain" else row for row in better]
    assert "plain rounding: mean KLD 0.3000 (PR #15550: 0.2660)" in shortfalls(replace(table, rows=worse))
    assert shortfalls(replace(table, rows=[row for row in better if row.recipe == "plain"])) == ""


@pytest.mark.parametrize(
    ("recipe", "size", "kld", "said"),
    [
        ("feedback", "Q2_K", 0.3, "0.3, met"),
        ("feedback", "Q2_K", 0.33, "0.3, 10 % above"),
        ("tuned", "Q2_K", 0.29, "0.3, met"),
        ("plain", "Q5_K_M", 0.0332, "0.0332, met"),
        ("plain", "Q6_K", 0.01, ""),
        ("stock", "Q2_K", 0.1, ""),
    ],
)
def test_goals(recipe: str, size: str, kld: float, said: str) -> None:
    assert against_goal(recipe, size, kld) == said


def test_the_page_is_written_from_partial_results(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\nmine\n")
    write_quality(results, PUBLISHED, page)
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nmine\n")
    assert "### Code" in text
    assert "writing a file, plain, 20 s" in text
    assert (tmp_path / "images" / "quality.png").read_bytes().startswith(b"\x89PNG")
    write_quality(results, PUBLISHED, page)
    assert page.read_text() == text


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    empty = Results(tmp_path / "results.json")
    assert quality_lines(empty, text_tables(empty), {})[-1] == "Nothing is measured yet."
    assert not write_plot(text_tables(empty), {}, tmp_path / "quality.png")
    assert not (tmp_path / "quality.png").exists()


def test_the_command_says_what_is_not_the_default(results: Results) -> None:
    assert command(Results(Path("nowhere.json")), GROUP) == "python -m benchmarks.quality"
    assert command(results, GROUP) == "python -m benchmarks.quality --texts wiki,code"
    results.put_text(GROUP, "code", "Code", 4, "key")
    results.put_facts(settings=["plain:a.b=1 2"])
    assert command(results, GROUP, "stability").endswith("stability --texts wiki,code --chunks 4 --set 'plain:a.b=1 2'")


def test_the_figure_has_a_panel_for_each_text_and_a_line_for_each_recipe(results: Results) -> None:
    figure = quality_figure(text_tables(results), PUBLISHED)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["WikiText-2 test, 24 chunks", "Code, 12 chunks"]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[-2:] == ["ours, plain rounding", "ours, error feedback"]
    assert len(labels) == 6
    assert len(figure.axes[0].containers) == 6
    assert len(figure.axes[1].containers) == 1


def test_a_section_is_replaced_and_the_rest_stays() -> None:
    begin, end = markers("quality")
    page = f"# Page\n\n{begin}\nold \\1\n{end}\n\nafter\n"
    assert with_section(page, "quality", ["new \\1"]) == f"# Page\n\n{begin}\n\nnew \\1\n\n{end}\n\nafter\n"
    other = with_section(page, "stability", ["second"])
    assert other.startswith(page.rstrip())
    assert "second" in other
    for bad in (page + begin, page.replace(end, ""), f"{end}\n{begin}\n"):
        with pytest.raises(Bitclass3Error, match=r"section 'quality'; leave one pair, or none"):
            with_section(bad, "quality", ["new"])


def test_recipes_of_peers(tmp_path: Path) -> None:
    path = tmp_path / "pr15550-Q2_K.txt"
    path.write_text("output.weight=iq3_s\nblk.0.attn_q.weight=q3_K\n\n")
    peers = Peers(tmp_path)
    assert peers.recipe("Q2_K") == {"output.weight": "IQ3_S", "blk.0.attn_q.weight": "Q3_K"}
    assert (peers.has_recipe("Q2_K"), peers.has_recipe("Q6_K"), Peers(None).has_recipe("Q2_K")) == (True, False, False)
    assert (Peers(None).published(), peers.published()) == ({}, {})
    with pytest.raises(ModelFileError, match=r"pr15550-Q2_K\.txt is of another model: 1 tensors differ \(output\.weight\)"):
        check_recipe(peers.recipe("Q2_K"), frozenset({"blk.0.attn_q.weight"}), "pr15550-Q2_K.txt")
    path.write_text("output.weight iq3_s\n")
    with pytest.raises(ModelFileError, match=r"line 1 is 'output\.weight iq3_s', expected tensor=type"):
        read_recipe(path)
    path.write_text("output.weight=q33\n")
    with pytest.raises(ConfigError, match="unknown qtype"):
        read_recipe(path)


def test_published_figures(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    header = "size_of,method,file_bytes,mean_kld,se,median_kld,p999_kld,same_top1_percent,ppl\n"
    path.write_text(f"{header}Q2_K,stock,101634912,1.160461,0.013625,0.884371,8.937646,45.915,77.68671\n")
    assert read_published(path)["Q2_K", "stock"] == Published(101634912, 1.160461, 0.013625, 0.884371, 8.937646, 0.45915, 77.68671)
    path.write_text("size_of,method\nQ2_K,stock\n")
    with pytest.raises(ModelFileError, match=r"results\.csv cannot be read"):
        read_published(path)

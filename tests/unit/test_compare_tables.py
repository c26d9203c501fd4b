"""The tables of a comparison: figures, domains, types by role; as Markdown and CSV."""

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from fake_runs import evaluation

from bitclass3_core.compare.comparison import COMPARED, Comparison
from bitclass3_core.compare.tables import markdown, notes, tables, types_csv
from bitclass3_core.problem import Allocation
from bitclass3_core.results import Candidate

SMALL = {"blk.0.attn_q.weight": "Q4_K", "blk.1.attn_q.weight": "Q4_K", "output.weight": "Q6_K"}
LARGE = {**SMALL, "blk.1.attn_q.weight": "Q6_K"}


def candidate(name: str, n_bytes: int, mean_kld: float | None, qtypes: dict[str, str]) -> Candidate:
    figures = None if mean_kld is None else evaluation(name, mean_kld)
    return Candidate(name, COMPARED, Allocation(qtypes), Path(f"{name}.gguf"), n_bytes, 4.5, None, figures)


@pytest.fixture
def comparison() -> Comparison:
    candidates = (candidate("small", 1000, 0.02, SMALL), candidate("large", 2000, 0.01, LARGE))
    return Comparison({"name": "Tiny", "file": "tiny.gguf"}, "text", candidates, {"large": (-0.01, 0.002)}, "bitclass3 compare")


def test_main_table_has_a_row_for_each_file(comparison):
    main = tables(comparison)[0]
    assert main.title == "Tiny: measured against tiny.gguf"
    small, large = (dict(zip(main.header, row, strict=True)) for row in main.rows)
    assert (small["file"], small["bytes"], small["bpw"]) == ("small", "1,000", "4.500")
    assert small["mean KLD"] == "0.0200 ± 0.0006"
    assert (small["from first"], large["from first"]) == ("", "-0.0100 ± 0.0020")
    assert (small["front"], large["front"]) == ("yes", "yes")
    assert small["PPL"] == "12.346"


def test_file_that_another_beats_is_not_on_the_front(comparison):
    worse = candidate("worse", 3000, 0.03, LARGE)
    rows = tables(replace(comparison, candidates=(*comparison.candidates, worse)))[0].rows
    assert [row[-1] for row in rows] == ["yes", "yes", ""]


def test_file_that_was_not_measured_has_its_size(comparison):
    bare = replace(comparison, candidates=(candidate("small", 1000, None, SMALL),), paired={})
    (table,) = tables(bare)
    assert table.rows[0][:3] == ["small", "1,000", "4.500"]
    assert set(table.rows[0][3:8]) == {"-"}
    assert notes(bare) == []


def test_domains_stand_side_by_side_where_there_are_several(comparison):
    domains = next(table for table in tables(comparison) if table.title == "mean KLD by domain")
    assert domains.header == ["file", "code", "wiki"]
    assert [row[0] for row in domains.rows] == ["small", "large"]
    of_code = comparison.candidates[0].evaluation.domains["code"]
    assert domains.rows[0][1] == f"{of_code:.4f}"
    alone = replace(
        comparison,
        candidates=tuple(replace(c, evaluation=replace(c.evaluation, domains={"code": 0.1})) for c in comparison.candidates),
    )
    assert "mean KLD by domain" not in [table.title for table in tables(alone)]


def test_types_are_counted_by_role_where_files_differ(comparison):
    types = tables(comparison)[-1]
    assert types.title == "types of 1 of 3 tensors differ"
    assert types.header == ["role", "small", "large"]
    assert types.rows == [["attn_q", "2 Q4_K", "1 Q4_K, 1 Q6_K"]]


def test_equal_types_are_said_to_be_so(comparison):
    same = replace(comparison, candidates=tuple(replace(c, allocation=Allocation(SMALL)) for c in comparison.candidates))
    assert not [table for table in tables(same) if table.title.startswith("types of")]
    assert notes(same)[-1] == "all tensors have the same type in every file"
    assert len(notes(comparison)) == 1


def test_notes_tell_what_the_figures_are(comparison):
    (line,) = notes(comparison)
    assert line.startswith("source PPL 12.100; 1,024 tokens scored by fake evaluator; KLD in nats per token")


def test_markdown_has_every_table_and_the_command(comparison):
    text = markdown(comparison)
    assert text.count("\n## ") + text.startswith("## ") == len(tables(comparison)) == 3
    assert "| attn_q | 2 Q4_K | 1 Q4_K, 1 Q6_K |" in text
    assert text.endswith("```sh\nbitclass3 compare\n```\n")
    odd = replace(comparison, candidates=(replace(comparison.candidates[0], name="a|b"), comparison.candidates[1]))
    assert "| a\\|b |" in markdown(odd), "a name cannot break the table"


def test_csv_has_every_tensor_and_whether_it_differs(comparison):
    rows = list(csv.reader(StringIO(types_csv(comparison))))
    assert rows[0] == ["tensor", "small", "large", "differs"]
    assert rows[1:] == [
        ["blk.0.attn_q.weight", "Q4_K", "Q4_K", "no"],
        ["blk.1.attn_q.weight", "Q4_K", "Q6_K", "yes"],
        ["output.weight", "Q6_K", "Q6_K", "no"],
    ]


def test_tensor_that_a_file_lacks_is_empty(comparison):
    lacking = replace(comparison.candidates[1], allocation=Allocation({"output.weight": "Q6_K"}))
    rows = list(csv.reader(StringIO(types_csv(replace(comparison, candidates=(comparison.candidates[0], lacking))))))
    assert ["blk.0.attn_q.weight", "Q4_K", "", "yes"] in rows

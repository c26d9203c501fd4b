"""Types of another file: read from GGUFs and recipes, put on a model within its size."""

import json

import bitclass3_clone
import bitclass3_ilp
import pytest
from bitclass3_clone import Options
from gguf_files import TENSORS, memory_model, write_gguf, write_split

from bitclass3_core.cli.recipe import recipe as recipe_command
from bitclass3_core.errors import ConfigError, InfeasibleError, ModelFileError
from bitclass3_core.gguf.recipe import recipe_lines, types_in_file
from bitclass3_core.knapsack.dual import tables_of
from bitclass3_core.model import padded
from bitclass3_core.problem import Choice, Group, Problem
from bitclass3_core.qtypes import qtype

MODEL = memory_model(blk__0__attn_q=(16, 256), blk__0__ffn_down=(8, 512), blk__1__attn_q=(16, 256), blk__1__ffn_down=(8, 64))
MENU = ("Q2_K", "Q4_0", "Q4_K", "Q5_0", "Q6_K", "Q8_0", "BF16")
WANTED = dict(zip(MODEL.tensors, ("Q4_K", "Q6_K", "Q2_K", "Q8_0"), strict=True))


def problem(budget=10**9, model=MODEL, menu=MENU):
    """Every tensor alone, each type costing a quarter for each bit more; tensors further back cost more."""
    groups = []
    for i, info in enumerate(model.tensors.values()):
        fitting = [qtype(q) for q in menu if info.accepts(qtype(q))]
        choices = [Choice(q.name, padded(info.n_bytes(q)), (i + 1) * 4.0**-q.bpw) for q in fitting if q.name != "Q4_0"]
        groups.append(Group(info.name, (info.name,), tuple(sorted(choices, key=lambda c: c.n_bytes))))
    return Problem(tuple(groups), budget)


def recipe(path, types):
    path.write_text("\n".join(recipe_lines(types)) + "\n")
    return path


def bytes_of(qtypes, model=MODEL):
    return sum(padded(model.tensors[name].n_bytes(qtype(q))) for name, q in qtypes.items())


def clone(asked, file, **options):
    return bitclass3_clone.bitclass3_solve(asked, MODEL, Options(file=file, **options))


def test_types_are_copied_as_they_are(tmp_path):
    answer = clone(problem(), recipe(tmp_path / "r.txt", WANTED))
    assert answer.qtypes == WANTED
    assert (answer.remarks, answer.note) == ((), "types of r")


def test_a_type_that_another_beats_is_copied_too(tmp_path):
    """Q4_0 is in no group's choices: no solver would take it, and clone must."""
    wanted = {**WANTED, "blk.0.attn_q.weight": "Q4_0"}
    assert clone(problem(), recipe(tmp_path / "r.txt", wanted)).qtypes == wanted


def test_rows_that_cannot_hold_the_type_get_the_nearest_and_it_is_said(tmp_path):
    answer = clone(problem(), recipe(tmp_path / "r.txt", {**WANTED, "blk.1.ffn_down.weight": "Q6_K"}))
    assert answer.qtypes["blk.1.ffn_down.weight"] == "Q5_1"
    assert answer.remarks == ("clone: 1 of 4 tensors differ from r.txt: blk.1.ffn_down.weight is Q5_1 instead of Q6_K",)


def test_too_large_is_lowered_where_it_costs_least(tmp_path):
    budget = bytes_of(WANTED) - 32
    answer = clone(problem(budget), recipe(tmp_path / "r.txt", WANTED))
    assert bytes_of(answer.qtypes) <= budget
    assert all(qtype(q).bpw <= qtype(WANTED[name]).bpw for name, q in answer.qtypes.items())
    changed = [name for name, q in answer.qtypes.items() if q != WANTED[name]]
    assert changed
    assert f"{len(changed)} of 4 tensors differ" in answer.remarks[0]
    assert all(name in answer.remarks[0] for name in changed)


def test_too_large_is_refused_where_asked(tmp_path):
    with pytest.raises(InfeasibleError, match=r"the types of r.txt take 32 bytes more than the budget; raise the target"):
        clone(problem(bytes_of(WANTED) - 32), recipe(tmp_path / "r.txt", WANTED), over_budget="refuse")


def test_a_pin_stays(tmp_path):
    first, *rest = problem().groups
    pinned = Problem((Group(first.name, first.tensors, first.choices[-1:]), *rest), 10**9)
    answer = clone(pinned, recipe(tmp_path / "r.txt", WANTED))
    assert answer.qtypes["blk.0.attn_q.weight"] == "BF16"
    assert "blk.0.attn_q.weight is BF16 instead of Q4_K" in answer.remarks[0]


def test_tensors_that_share_a_type_get_the_largest_of_theirs(tmp_path):
    q, _, k, _ = problem().groups
    both = tuple(Choice(a.qtype, a.n_bytes + b.n_bytes, a.cost + b.cost) for a, b in zip(q.choices, k.choices, strict=True))
    answer = clone(Problem((Group("qk", (*q.tensors, *k.tensors), both),), 10**9), recipe(tmp_path / "r.txt", WANTED))
    assert set(answer.qtypes.values()) == {"Q4_K"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (r"^blk\.0\.attn_q\.weight$=q4_k", r"gives no type to blk.0.ffn_down.weight and 2 more of 4 tensors; add a line"),
        ("attn_q", r"'attn_q' is no pattern=type"),
        ("(=q4_k", r"'\(' is no regular expression"),
        (".*=q4_x", r"unknown qtype 'q4_x'"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path, text, says):
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(ModelFileError, match=says):
        clone(problem(), tmp_path / "r.txt")


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"clone needs a file to take types from"):
        clone(problem(), None)
    with pytest.raises(ModelFileError, match=r"nothing.gguf does not exist"):
        clone(problem(), tmp_path / "nothing.gguf")


def test_file_of_another_model(tmp_path):
    with pytest.raises(ModelFileError, match=r"gives no type to blk.1.ffn_down.weight; clone a file of a model with the same"):
        clone(problem(), write_gguf(tmp_path / "other.gguf"))


def test_recipe_is_read_as_llama_quantize_reads_it(tmp_path):
    """Words, lower-cased patterns that are searched, the first that is found."""
    (tmp_path / "r.txt").write_text("BLK\\.0=q4_k  attn=q6_k\n.*=Q8_0")
    names = ["blk.0.attn_q.weight", "blk.1.attn_q.weight", "output.weight"]
    assert list(types_in_file(tmp_path / "r.txt", names).values()) == ["Q4_K", "Q6_K", "Q8_0"]


@pytest.mark.parametrize("split", [False, True])
def test_recipe_of_a_gguf_comes_back_as_its_types(tmp_path, capsys, split):
    path = write_split(tmp_path)[1] if split else write_gguf(tmp_path / "model.gguf")
    types = {name: q for name, (shape, q) in TENSORS.items() if len(shape) > 1}
    recipe_command(path)
    (tmp_path / "r.txt").write_text(capsys.readouterr().out)
    assert types_in_file(tmp_path / "r.txt", TENSORS) == types == types_in_file(path, ())
    recipe_command(path, tmp_path / "types.json", json=True)
    assert json.loads((tmp_path / "types.json").read_text()) == types


def test_recipe_of_nothing(tmp_path):
    with pytest.raises(ModelFileError, match=r"x.gguf does not exist"):
        recipe_command(tmp_path / "x.gguf")
    norm = write_gguf(tmp_path / "norm.gguf", {"output_norm.weight": ((256,), "F32")})
    with pytest.raises(ModelFileError, match=r"has no tensor that llama-quantize would choose a type for"):
        recipe_command(norm)


def test_ilp_starts_from_a_file(tmp_path):
    """A search that is stopped at once keeps the file's answer where that is the better one, and only there."""
    asked = problem(bytes_of(WANTED))
    best = bitclass3_ilp.bitclass3_solve(asked, bitclass3_ilp.Options())
    tables = tables_of(asked)
    picks = bitclass3_ilp.start_picks(asked, recipe(tmp_path / "best.txt", dict(best.qtypes)))
    search = bitclass3_ilp.Search(tables, bitclass3_ilp.Options(), 0.0)
    search.picks, search.cost = picks * 0, tables.cost_of(picks * 0)
    search.offer(picks)
    assert [group.choices[k].qtype for group, k in zip(asked.groups, search.picks, strict=True)] == list(best.qtypes.values())
    for worse in (dict.fromkeys(MODEL.tensors, "Q2_K"), dict.fromkeys(MODEL.tensors, "BF16")):  # dearer; over the budget
        search.offer(bitclass3_ilp.start_picks(asked, recipe(tmp_path / "worse.txt", worse)))
        assert search.cost == tables.cost_of(picks)
    options = bitclass3_ilp.Options(start=tmp_path / "best.txt")
    assert bitclass3_ilp.bitclass3_solve(asked, options).qtypes == best.qtypes

"""Refinements of an allocation, on the example model: what each computes, held against what the model does."""

import numpy as np
import pytest
import torch
from command import CALIBRATION, EVALUATION, EXAMPLE, GGUF

from benchmarks.refinements import __main__ as command
from benchmarks.refinements import fitted, searching
from benchmarks.refinements.lab import Lab
from benchmarks.refinements.scores import (
    Tokens,
    captured,
    gram_table,
    gram_total,
    head_table,
    score_table,
    scores,
    token_shares,
    token_table,
)
from bitclass3_core.corpus import document, read_documents
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.pipeline import Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    flags = {
        ("model", "hf"): EXAMPLE,
        ("model", "gguf"): GGUF,
        ("corpus", "calibration"): [CALIBRATION],
        ("corpus", "evaluation"): [EVALUATION],
        ("budget", "options", "match_stock"): "Q4_K_S",
        ("baseline", "plugin"): "none",
        ("out",): tmp_path_factory.mktemp("lab"),
    }
    settings = ["estimate.options.n_tokens=2048", 'qtypes.menu=["Q3_K", "Q4_K", "Q5_K", "Q8_0"]']
    pipeline = Pipeline(load_config(None, flags, (), settings), Silent(), "test")
    test = document("\n".join(doc.text for doc in read_documents(EVALUATION)), "test")
    return Lab(pipeline, test, 2, Silent())


def test_nothing_put_into_the_model_is_no_divergence(lab: Lab) -> None:
    assert lab.divergences({}, lab.test, "none") == pytest.approx([0, 0], abs=1e-6)
    assert (lab.divergences(lab.base, lab.test) > 0.001).all()
    assert lab.divergences({}, lab.test, "none") == pytest.approx([0, 0], abs=1e-6), "the source's weights are back"


def test_solves_a_table_as_the_run_does(lab: Lab) -> None:
    assert lab.solved(lab.table) == lab.base
    room = lab.problem.budget_bytes
    dear = {
        name: {q: cost * (9 if name == "output.weight" else 1) for q, cost in cells.items()} for name, cells in lab.table.items()
    }
    other = lab.solved(dear, near=lab.base)
    assert other != lab.base
    assert lab.pipeline.quantizable_bytes(Allocation(other)) <= room
    for name, q in other.items():
        known = lab.choices(name)
        assert abs(known.index(q) - known.index(lab.base[name])) <= 1


def test_scores_are_what_errors_do_to_the_loss(lab: Lab) -> None:
    tokens = captured(lab)
    found = scores(lab, tokens)
    name = "blk.1.ffn_down.weight"
    error = torch.from_numpy(lab.weights(name, lab.base[name]) - lab.model.read(name))
    one = float(tokens[name].g[7].float() @ (error @ tokens[name].x[7].float()))
    assert found[name][lab.base[name]][7] == pytest.approx(one, rel=1e-3, abs=1e-7)
    table = score_table(lab, found)
    ratios = [table[name][q] / lab.table[name][q] for name, q in lab.base.items() if name in found and lab.table[name][q] > 0]
    assert 0.5 < np.median(ratios) < 2, "the two vectors are an estimate of the same"
    alone = {name: {q: s if name == "output.weight" else 0 * s for q, s in cells.items()} for name, cells in found.items()}
    assert gram_total(lab, alone, lab.base) == pytest.approx(lab.total(score_table(lab, alone), lab.base)), "no others, no products"


def test_gram_form_is_the_sum_form_when_products_are_zero(lab: Lab) -> None:
    """Scores on tokens that no two tensors share: what lies off the diagonal of the Gram matrix is zero."""
    found = scores(lab, captured(lab))
    n = len(next(iter(found["output.weight"].values())))
    apart = {
        name: {q: np.where(np.arange(n) % len(found) == i, s, 0) for q, s in cells.items()}
        for i, (name, cells) in enumerate(found.items())
    }
    assert gram_total(lab, apart, lab.base) == pytest.approx(lab.total(score_table(lab, apart), lab.base))
    gram, summed = gram_table(lab, apart, lab.base), score_table(lab, apart)
    assert gram["blk.1.ffn_down.weight"] == pytest.approx(summed["blk.1.ffn_down.weight"])


def test_token_by_token_is_the_same_where_each_chunk_has_one_token(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = captured(lab)
    shares = token_shares(lab, tokens)
    assert set(shares) == set(tokens)
    assert np.mean([share for name, share in shares.items() if "ffn_down" in name]) == pytest.approx(1, abs=0.3)
    few = {name: Tokens(tokens[name].x[:8], tokens[name].g[:8]) for name in ("blk.3.attn_v.weight", "blk.0.ffn_up.weight")}
    monkeypatch.setattr("benchmarks.refinements.scores.N_CTX", 1)
    assert token_shares(lab, few) == pytest.approx(dict.fromkeys(few, 1.0), rel=1e-3)
    table = token_table(lab, {"output.weight": 0.5})
    for q, cost in lab.table["output.weight"].items():
        rest = lab.activation("output.weight", q)
        assert table["output.weight"][q] == pytest.approx(0.5 * cost + 0.5 * min(rest, cost))
    assert table["blk.0.ffn_up.weight"] == pytest.approx(lab.table["blk.0.ffn_up.weight"])


def test_exact_cost_of_the_head(lab: Lab) -> None:
    table = head_table(lab, captured(lab))
    assert {name: cells for name, cells in table.items() if name != "output.weight"} == {
        name: dict(cells) for name, cells in lab.table.items() if name != "output.weight"
    }
    ratios = [table["output.weight"][q] / lab.table["output.weight"][q] for q in lab.choices("output.weight") if q != "BF16"]
    assert all(0.5 < ratio < 2 for ratio in ratios)


def test_multipliers_are_found_again(lab: Lab) -> None:
    """Divergences that are the classes' parts with known multipliers: the fit finds them."""
    true = {fitted.class_of(lab, name): 1.0 for name in lab.table} | {"output": 3.0, "ffn_down": 0.5}
    mixes = fitted.drawn_mixes(lab, 30)
    assert len({tuple(sorted(mix.items())) for mix in mixes}) > 20
    table = fitted.multiplied(lab, true)
    measured = np.array([lab.total(table, mix) for mix in mixes])
    factors = fitted.fitted(lab, mixes, measured)
    assert factors["output"] > 1.5 * factors["ffn_gate"] > 1.5 * factors["ffn_down"]


def test_hessian_of_the_source_is_the_source_s(lab: Lab) -> None:
    table = fitted.relinearised_table(lab, {})
    for name, q in lab.base.items():
        assert table[name][q] == pytest.approx(lab.table[name][q], rel=0.1), name


def test_swaps_never_make_it_worse_where_they_are_judged(lab: Lab) -> None:
    mix, _ = searching.swap_search(lab, lab.base, 4)
    assert lab.pipeline.quantizable_bytes(Allocation(mix)) <= lab.problem.budget_bytes
    assert lab.divergences(mix, lab.judged).mean() <= lab.divergences(lab.base, lab.judged).mean()


def test_the_table(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("N_MIXES", 3), ("N_SWAPS", 2), ("N_PROBES", 6)):
        monkeypatch.setattr(command, name, few)
    lines = list(command.rows(lab))
    assert [line.split(" | ")[0] for line in lines[2:-1]] == [
        *(
            "| two vectors",
            "| token by token",
            "| head's exact cost",
            "| scores",
            "| Gram matrix",
            "| class multipliers",
            "| Hessian of the mix",
        )
    ]
    assert "swaps after" in lines[-1]
    assert len(list(command.rows(lab, ["token by token"]))) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "rank correlation" in command.probe_line(lab)

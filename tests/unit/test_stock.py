"""The stock mixes, against what llama-quantize chose, and the solver that picks one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bitclass3_stock import STOCK_FTYPES, StockOptions, bitclass3_solve, stock_qtypes
from pydantic import ValidationError
from stock_models import fake, llama

from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.model import Architecture, padded
from bitclass3_core.problem import Problem
from bitclass3_core.qtypes import qtype

DATA = Path(__file__).parents[1] / "data"
EXAMPLE = DATA.parents[1] / "examples" / "tiny-qwen35" / "model-bf16.gguf"
TRUTH = json.loads((DATA / "stock_smol768" / "types.json").read_text())["mixes"]
SNAPSHOTS = {path.stem: json.loads(path.read_text()) for path in sorted((DATA / "stock_snapshots").glob("*.json"))}


@pytest.mark.parametrize("ftype", TRUTH)
def test_same_types_as_llama_quantize_tensor_by_tensor(ftype: str):
    model = llama(30)
    expected = {}
    for role, text in TRUTH[ftype].items():
        types = text.split()
        names = [f"{role}.weight"] if len(types) == 1 else [f"blk.{block}.{role}.weight" for block in range(30)]
        expected |= dict(zip(names, types, strict=True))
    assert len(expected) == 212
    assert stock_qtypes(model, model.names, ftype) == expected


def numbers(text: str) -> list[int]:
    """The numbers of ``0-2 5``: 0, 1, 2 and 5."""
    return [n for first, last in re.findall(r"(\d+)(?:-(\d+))?", text) for n in range(int(first), int(last or first) + 1)]


def of_snapshot(snapshot: dict[str, Any]) -> Any:
    shapes = dict(snapshot["outside_blocks"])
    for role, where in snapshot["in_blocks"].items():
        shapes |= {f"blk.{block}.{role}.weight": where["shape"] for block in numbers(where["blocks"])}
    metadata = {key.removeprefix(f"{snapshot['arch']}."): value for key, value in snapshot["metadata"].items()}
    return fake(snapshot["arch"], shapes, metadata)


@pytest.mark.parametrize("ftype", STOCK_FTYPES)
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_same_types_as_llama_cpp_s_own_snapshots(name: str, ftype: str):
    """A hybrid, a 70B, and a model of experts whose rows are no multiple of 256; none of them with an imatrix."""
    model = of_snapshot(SNAPSHOTS[name])
    quantizable = model.names - {tensor for tensor in model.names if "ffn_gate_inp" in tensor}
    mix = dict(SNAPSHOTS[name]["mixes"][ftype])
    expected = dict.fromkeys(quantizable, mix.pop("base"))
    for role, types in mix.items():
        if isinstance(types, str):
            expected[role] = types
        else:
            expected |= {f"blk.{block}.{role}.weight": q for q, blocks in types.items() for block in numbers(blocks)}
    assert set(expected) == quantizable
    assert stock_qtypes(model, quantizable, ftype, has_imatrix=False) == expected


def test_every_mix_answers_every_tensor():
    model = llama(16)
    sizes = {}
    for ftype in STOCK_FTYPES:
        qtypes = stock_qtypes(model, model.names, ftype)
        assert set(qtypes) == model.names
        sizes[ftype] = sum(model.tensors[name].n_bytes(qtype(q)) for name, q in qtypes.items())
    assert len(STOCK_FTYPES) == 27
    ladder = ["IQ1_S", "IQ2_XXS", "IQ2_M", "IQ3_XXS", "IQ3_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"]
    assert sorted(ladder, key=sizes.__getitem__) == ladder


def test_unknown_ftype_is_refused_with_a_suggestion():
    model = llama(1)
    with pytest.raises(ConfigError, match=r"unknown ftype 'Q4_KM'; did you mean 'Q4_K_M'\? known: IQ1_M, "):
        stock_qtypes(model, model.names, "Q4_KM")


def solve(model: Any, budget_bytes: int, **options: Any) -> Any:
    architecture = Architecture("fake", model.names)
    return bitclass3_solve(
        problem=Problem((), budget_bytes), model=model, architecture=architecture, options=StockOptions(**options)
    )


def size(model: Any, qtypes: dict[str, str]) -> int:
    return sum(padded(model.tensors[name].n_bytes(qtype(q))) for name, q in qtypes.items())


def test_solver_takes_the_named_mix_in_any_case():
    model = llama(4)
    answer = solve(model, 10**9, ftype="q5_k_m")
    assert answer.qtypes == stock_qtypes(model, model.names, "Q5_K_M")
    assert (answer.solver, answer.note, answer.options) == ("stock", "stock Q5_K_M", {"ftype": "Q5_K_M"})


def test_solver_takes_the_largest_mix_that_fits():
    model = llama(4)
    sizes = {ftype: size(model, stock_qtypes(model, model.names, ftype)) for ftype in STOCK_FTYPES}
    budget = sizes["Q4_K_M"]
    assert solve(model, budget).options == {"ftype": "Q4_K_M"}
    below = solve(model, budget - 1)
    assert size(model, below.qtypes) == max(n for n in sizes.values() if n < budget)
    assert solve(model, 10**12).options == {"ftype": "Q8_0"}


def test_solver_without_a_fitting_mix_names_the_smallest():
    with pytest.raises(
        InfeasibleError, match=r"budget leaves 1,000 bytes .* the smallest stock mix IQ1_S takes [\d,]+; raise the target$"
    ):
        solve(llama(4), 1000)


def test_unknown_option_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        StockOptions(level="Q4_K_M")  # type: ignore[call-arg]


@pytest.mark.parametrize("ftype", STOCK_FTYPES)
def test_hybrid_example_gets_what_llama_quantize_gave_it(ftype: str) -> None:
    """The example model (gated DeltaNet and attention) through the real llama-quantize with an imatrix, all mixes."""
    written = json.loads((DATA / "stock_tiny_qwen35.json").read_text())[ftype]
    model = GgufModel(EXAMPLE)
    qtypes = stock_qtypes(model, quantizable_tensors(model), ftype)
    ours: dict[str, list[str]] = {}
    for info in sorted(model.tensors.values(), key=lambda info: (-1 if info.block is None else info.block, info.name)):
        if info.name in qtypes:
            ours.setdefault(info.role, []).append(qtypes[info.name])
    assert {role: " ".join(types) for role, types in ours.items()} == written

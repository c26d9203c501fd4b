"""Every family through the whole chain with the real llama.cpp: converted, allocated, quantized, run; the page of architectures."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bitclass3_stock import STOCK_FTYPES, stock_qtypes
from command import ROOT
from families import FAMILIES
from family_runs import N_TOKENS, Row, dry_run, kept_roles, n_generated, page, perplexity
from safetensors import safe_open

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import allows_quantization
from bitclass3_core.layout import bpw
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import Pipeline
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import run_program

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of tokenizers' own making
PAGE = ROOT / "docs" / "reference" / "architectures.md"
UPDATE = "BITCLASS3_UPDATE"
TARGET = 5.0
every_family = pytest.mark.parametrize("name", FAMILIES)
rows: dict[str, Row] = {}  # what the tests found, for the page


@pytest.fixture(scope="module")
def chain(tiny: Callable[[str], Path], llama_cpp: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """A family's run: uniform statistics, the menu k, exact allocation at 5 bpw, llama-quantize."""
    made: dict[str, Pipeline] = {}

    def run(name: str) -> Pipeline:
        if name not in made:
            flags: dict[tuple[str, ...], Any] = {
                ("model", "gguf"): tiny(name),
                ("out",): tmp_path_factory.mktemp("out") / name,
                ("budget", "options", "target_bpw"): TARGET,
                ("qtypes", "menu"): "k",
                ("baseline", "plugin"): "none",
                ("export", "options", "llama_cpp"): llama_cpp,
            }
            config = load_config(flags=flags, plugins=["uniform", "llama-quantize"])
            made[name] = Pipeline(config, Context.of(config, Silent(), "test"))
        return made[name]

    return run


def in_ggml(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as llama-quantize writes it: ggml knows no leading dimensions of 1."""
    return shape[1:] if shape[0] == 1 and len(shape) > 1 else shape


def hf_weights(folder: Path) -> int:
    """Weights in an HF folder."""
    with safe_open(folder / "model.safetensors", "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (it is no dict)


@every_family
def test_conversion_loses_no_weight(tiny: Callable[[str], Path], name: str) -> None:
    model = GgufModel(tiny(name))
    assert model.arch == FAMILIES[name].arch
    assert sum(info.n_params for info in model.tensors.values()) == hf_weights(model.path.parent)


@every_family
def test_quantizable_is_what_llama_quantize_quantizes(chain: Any, llama_cpp: Path, name: str) -> None:
    """None forgotten, none that must not be; what llama-quantize makes F16 of is what has no block of 32 in a row."""
    run = chain(name)
    model, quantizable = run.model, run.architecture.quantizable
    would = dry_run(llama_cpp, model.path, "Q8_0")
    assert would.keys() == model.tensors.keys()
    assert quantizable == {tensor for tensor, q in would.items() if q == "Q8_0"}
    changed = {tensor for tensor, q in would.items() if q != model.tensors[tensor].dtype} - quantizable
    without_block = {t for t, info in model.tensors.items() if allows_quantization(info) and info.n_in % 32}
    assert changed == without_block
    assert bool(without_block) == (name == "mamba")


@every_family
def test_stock_mixes_are_those_of_llama_quantize(chain: Any, llama_cpp: Path, name: str) -> None:
    run = chain(name)
    model, quantizable = run.model, run.architecture.quantizable
    for ftype in STOCK_FTYPES:
        would = dry_run(llama_cpp, model.path, ftype)
        assert stock_qtypes(model, quantizable, ftype, has_imatrix=False) == {t: would[t] for t in quantizable}, ftype


@every_family
def test_stock_mix_is_what_llama_quantize_writes(chain: Any, llama_cpp: Path, tmp_path: Path, name: str) -> None:
    """Q4_K_M with an imatrix, really written."""
    run = chain(name)
    imatrix = run.files[0].path.with_name("imatrix.gguf")
    program = find_program("llama-quantize", llama_cpp).path
    run_program([str(program), "--imatrix", str(imatrix), str(run.model.path), str(tmp_path / "stock.gguf"), "Q4_K_M"])
    written = GgufModel(tmp_path / "stock.gguf").tensors
    quantizable = run.architecture.quantizable
    assert stock_qtypes(run.model, quantizable, "Q4_K_M") == {t: written[t].dtype for t in quantizable}


@every_family
def test_allocated_and_written_as_asked(chain: Any, name: str) -> None:
    run = chain(name)
    model, architecture = run.model, run.architecture
    run.check_target()
    (made,) = run.files
    asked = made.allocation.qtypes
    assert asked.keys() == architecture.quantizable
    assert TARGET - 0.25 < bpw(model, asked) <= TARGET
    assert all(qtype(asked[tensor]).bpw >= qtype(least).bpw for tensor, least in architecture.floors.items())
    written = GgufModel(made.path).tensors
    assert {t: (in_ggml(info.shape), info.dtype) for t, info in written.items()} == {
        t: (in_ggml(info.shape), asked.get(t, info.dtype)) for t, info in model.tensors.items()
    }
    stacks = [t for t in asked if len(model.tensors[t].shape) == 3]
    assert bool(stacks) == any(part in name for part in ("moe", "next", "mixtral", "gpt-oss", "deepseek"))
    rows[name] = Row(
        run.stages.plugin("architecture").name,
        len(model.tensors),
        len(asked),
        len(stacks),
        sum(written[t].dtype == q for t, q in asked.items()),
        0,
        kept_roles(model, architecture.quantizable),
        {model.tensors[t].role: q for t, q in architecture.floors.items()},
    )


@every_family
def test_runs_in_llama_cpp(chain: Any, llama_cpp: Path, name: str) -> None:
    """The quantized file generates, and predicts about as well as its source (whose logits are noise: the perplexity is high)."""
    (made,) = chain(name).files
    source, quantized = perplexity(llama_cpp, chain(name).model.path), perplexity(llama_cpp, made.path)
    assert quantized == pytest.approx(source, rel=0.15)
    assert n_generated(llama_cpp, made.path) == N_TOKENS
    if name in rows:
        rows[name] = replace(rows[name], n_tokens=N_TOKENS)


def test_page_is_what_was_found() -> None:
    if rows.keys() != FAMILIES.keys() or not all(row.n_tokens for row in rows.values()):
        pytest.skip("not every family was run")
    found = page(rows, FAMILIES)
    if os.environ.get(UPDATE):
        PAGE.write_text(found, encoding="utf-8")
    committed = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    assert committed == found, f"run `{UPDATE}=1 pytest tests/integration/test_families.py`"

"""Compare, recipe, clone and the explorer on a finished run of the example model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import chromium
from command import EVALUATION, EXAMPLE, GGUF, bitclass3, run

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.recipe import types_in_gguf
from bitclass3_core.runs.candidates import load_evaluation

pytestmark = pytest.mark.slow
OURS = "tiny-qwen35-4.80bpw"
MEASURING = ["--reference", EXAMPLE, "--eval-corpus", EVALUATION, "--set", "evaluate.options.n_tokens=4096"]


def stock_of(out: Path) -> Path:
    (path,) = out.glob("*stock*.gguf")
    return path


def allocation(out: Path) -> dict[str, str]:
    return dict(json.loads((out / "allocation.json").read_text())["qtypes"])


def test_compare_measures_what_the_run_measured(finished: Path, tmp_path: Path) -> None:
    stock = stock_of(finished)
    done = bitclass3("compare", finished / f"{OURS}.gguf", stock, *MEASURING, "--out", tmp_path / "cmp", "--json")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    for file in values["files"]:
        own = load_evaluation(finished / "evaluation" / f"{file['name']}.npz")
        assert file["evaluation"]["mean_kld"] == pytest.approx(own.mean_kld, rel=1e-6)
        assert file["evaluation"]["domains"] == pytest.approx(own.domains)
    assert values["paired_differences"][stock.stem]["mean"] > 0
    assert (tmp_path / "cmp" / "plots" / "size_kld.png").is_file()


def test_compared_files_enter_card_and_explorer(copied: Callable[[], Path], tmp_path: Path) -> None:
    out = copied()
    theirs = tmp_path / "theirs.gguf"
    theirs.write_bytes(stock_of(out).read_bytes())
    done = bitclass3("compare", theirs, *MEASURING, "--out", tmp_path / "cmp")
    assert done.code == 0, done.err
    result = json.dumps([str(tmp_path / "cmp" / "compare.json")])
    settings = [f"report.options.{name}.compared={result}" for name in ("explorer", "model-card")]
    done = run(out, "--target-bpw", 4.8, *(part for setting in settings for part in ("--set", setting)))
    assert done.code == 0, done.err
    assert "| `theirs.gguf` |" in (out / "README.md").read_text()
    assert "theirs" in (out / "explorer.html").read_text(encoding="utf-8").split('id="data"')[1]
    assert "theirs.gguf" not in done.out, "the run's own result is of its own files"


SHOWN = 5e-4  # the page shows four digits


def test_slider_gives_the_allocation_of_the_command(copied: Callable[[], Path]) -> None:
    out = copied()
    sizes = ["3.6MiB", "4.3MiB", "5600000"]
    found: dict[str, tuple[list[str], float]] = {}
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto((out / "explorer.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        for size in sizes:
            page.get_by_label("Exactly").fill(size)
            page.keyboard.press("Enter")
            cost = page.locator("#answer div", has=page.get_by_text("Predicted KLD, nats per token")).locator("dd").inner_text()
            found[size] = page.get_by_label("Lines of the recipe").input_value().splitlines(), float(cost)
    for size in sizes:
        done = run(out, "--target-size", size, "--plugin", "lagrangian", "--baseline", "none", "--until", "export")
        assert done.code == 0, done.err
        lines, cost = found[size]
        assert lines == (out / f"tiny-qwen35-{size}.tensor_types.txt").read_text().splitlines()
        exact = run(out, "--target-size", size, "--until", "solve", "--json")
        least = json.loads(exact.out)["predicted_cost"]
        assert least <= cost * (1 + SHOWN) <= 1.02 * least


def test_clone_puts_another_files_types_on_the_model(copied: Callable[[], Path], tmp_path: Path) -> None:
    out = copied()
    stock = stock_of(out)
    lines = bitclass3("recipe", stock).out
    (tmp_path / "theirs.txt").write_text(lines)
    settings = [f"solve.options.file={tmp_path / 'theirs.txt'}", f"budget.options.match_file={stock}"]
    flags = [part for setting in settings for part in ("--set", setting)]
    done = run(out, "--plugin", "clone", *flags, "--baseline", "none", "--until", "export")
    assert done.code == 0, done.err
    (made,) = out.glob("tiny-qwen35-like-*.gguf")
    assert types_in_gguf(made) == types_in_gguf(stock)
    assert {name: info.dtype for name, info in GgufModel(stock).tensors.items() if name in allocation(out)} == allocation(out)
    small = run(out, "--plugin", "clone", *flags[:2], "--target-bpw", 4.0, "--baseline", "none", "--until", "solve")
    assert small.code == 0, small.err
    assert "64 tensors differ from theirs.txt" in small.err
    refused = run(
        out, "--plugin", "clone", *flags[:2], "--set", "solve.options.over_budget=refuse", "--target-bpw", 4.0, "--until", "solve"
    )
    assert refused.code == 3
    assert "bytes more than the budget" in refused.error


def test_reference_of_another_model(finished: Path) -> None:
    other = Path(__file__).parents[1] / "data" / "llama-tiny"
    done = bitclass3("compare", finished / f"{OURS}.gguf", "--reference", other)
    assert done.code == 1
    assert f"{OURS}.gguf cannot be compared with model-bf16.gguf: its architecture is 'qwen35', not 'llama'" in done.error


def test_llama_perplexity_compares_too(finished: Path, tmp_path: Path, llama_cpp: Path) -> None:
    files = [finished / f"{OURS}.gguf", stock_of(finished)]
    before = {path.name for path in (finished / "evaluation").iterdir()}
    rest = [
        "--plugin",
        "llama-perplexity",
        "--llama-cpp",
        llama_cpp,
        "--set",
        "evaluate.options.n_chunks=8",
        "--out",
        tmp_path / "cmp",
    ]
    done = bitclass3("compare", *files, "--reference", GGUF, "--eval-corpus", EVALUATION, *rest, "--json")
    assert done.code == 0, done.err
    ours, stock = (file["evaluation"] for file in json.loads(done.out)["files"])
    assert 0 < ours["mean_kld"] < stock["mean_kld"]
    assert ours["evaluator"].startswith("llama-perplexity")
    assert {path.name for path in (finished / "evaluation").iterdir()} == before, "nothing is written beside somebody's files"

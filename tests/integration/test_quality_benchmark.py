"""The quality benchmark from end to end with the real llama.cpp, on the example model in the place of the large one."""

import json
from pathlib import Path

import pytest
from bitclass3_qwen35 import bitclass3_architecture
from bitclass3_stock import stock_qtypes

from benchmarks.quality import benchmark as benchmark_module
from benchmarks.quality import making
from benchmarks.quality.__main__ import parser
from benchmarks.quality.benchmark import Benchmark
from benchmarks.quality.results import Results
from benchmarks.quality.texts import CALIBRATION_CHARS
from bitclass3_core.corpus import read_documents
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Silent

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tiny-qwen35"
SIZE = "Q4_K_M"
FEW_TYPES = ("--set", 'qtypes.menu=["Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]')  # priced in seconds


@pytest.fixture
def root(tmp_path: Path, llama_cpp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone beside a shared folder that has texts of the example's and one peer's recipe: here the stock mix itself."""
    model = GgufModel(EXAMPLE / "model-bf16.gguf", EXAMPLE)
    monkeypatch.setattr(benchmark_module, "built", lambda progress: model)
    few = [setting.replace("30720", "2048") for setting in making.IMATRIX]
    monkeypatch.setattr(making, "IMATRIX", few)
    data, peers = tmp_path / "shared" / "data", tmp_path / "shared" / "peers" / "smol768"
    data.mkdir(parents=True)
    peers.mkdir(parents=True)
    calibration = "\n".join(doc.text for doc in read_documents(EXAMPLE / "held-out" / "calibration.jsonl"))
    share = len(calibration) // len(CALIBRATION_CHARS)
    for i, name in enumerate(CALIBRATION_CHARS):
        (data / f"{name}.utf8").write_text(calibration[i * share : (i + 1) * share], encoding="utf-8")
    evaluation = "\n\n".join(doc.text for doc in read_documents(EXAMPLE / "held-out" / "evaluation.jsonl"))
    (data / "wiki.test.raw").write_text(evaluation, encoding="utf-8")
    mix = stock_qtypes(model, bitclass3_architecture(model=model).quantizable, SIZE)
    (peers / f"pr15550-{SIZE}.txt").write_text("".join(f"{name}={q.lower()}\n" for name, q in mix.items()))
    return tmp_path / "clone"


def call(root: Path, *arguments: str) -> Results:
    """One call of the benchmark; its results."""
    out, page = root.parent / "out", root.parent / "docs" / "benchmarks.md"
    given = ["--sizes", SIZE, "--chunks", "8", "--out", str(out), "--docs", str(page), *FEW_TYPES, *arguments]
    benchmark = Benchmark(parser().parse_args(given), Silent(), root)
    benchmark.measure()
    benchmark.write()
    return Results(out / "results.json")


@pytest.mark.slow
def test_all_recipes_of_a_size(root: Path) -> None:
    settings = ["--set", "estimate.options.n_tokens=1024", "--set", "feedback:export.options.n_tokens=1024"]
    results = call(root, "--texts", "wiki", *settings)
    files = {recipe: results.file(f"{SIZE}/{recipe}") for recipe in ("stock", "peer", "plain", "feedback")}
    assert all(facts and facts.n_bytes <= files["stock"].n_bytes for facts in files.values())
    assert files["peer"].sha256 == files["stock"].sha256  # the same types by the same program with the same imatrix
    assert files["plain"].qtypes == files["feedback"].qtypes != files["stock"].qtypes
    assert files["plain"].sha256 != files["feedback"].sha256
    key = results.facts["texts"]["wiki"]["key"]
    klds = {recipe: results.cell(facts.sha256, key).evaluation.mean_kld for recipe, facts in files.items()}
    assert max(klds["plain"], klds["feedback"]) < klds["stock"]  # so few tokens do not round better than plainly
    out = root.parent / "out"
    assert not list(out.rglob("*.gguf.part"))
    assert [path.name for path in out.rglob("*.gguf")] == ["imatrix.gguf"] * 2
    page = (root.parent / "docs" / "benchmarks.md").read_text()
    assert f"| {SIZE} | PR #15550 | " in page
    before = json.loads((out / "results.json").read_text())
    call(root, "--texts", "wiki", *settings)
    assert json.loads((out / "results.json").read_text())["cells"] == before["cells"]


@pytest.mark.slow
def test_stability_of_two_calibrations(root: Path) -> None:
    variants = "mixed-1024-seed0,mixed-2048-seed0"
    results = call(root, "stability", "--variants", variants)
    page = (root.parent / "docs" / "benchmarks.md").read_text()
    assert len(list(results.names())) == 2
    assert "| 1,024 tokens | " in page
    assert "| 2,048 tokens | " in page

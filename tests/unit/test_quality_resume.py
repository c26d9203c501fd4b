"""The benchmark's files and measurements: what is known is not made again, and nothing measured is lost."""

from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import TENSORS, write_gguf
from perplexity_bench import N_CHUNKS, Bench

from benchmarks.quality import benchmark as benchmark_module
from benchmarks.quality.__main__ import main, parser
from benchmarks.quality.benchmark import Benchmark
from benchmarks.quality.making import OURS, Planned, kept, made, settings_of
from benchmarks.quality.measuring import Meter
from benchmarks.quality.results import Results, cell_key
from benchmarks.quality.stability import GROUP as STABILITY_GROUP
from benchmarks.quality.stability import REFERENCE, VARIANTS, Change, Variant, change, name_of, stability_lines
from benchmarks.quality.texts import EvaluationText, Texts
from bitclass3_core.errors import Bitclass3Error, ToolchainError
from bitclass3_core.files import sha256_file
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Silent

WIKI = EvaluationText("wiki", "WikiText-2 test", "some text\n" * 400, N_CHUNKS)
CODE = EvaluationText("code", "Code", "some code\n" * 400, N_CHUNKS)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A stand-in for llama-perplexity that is found."""
    made_up = Bench(tmp_path)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(made_up.bin))
    return made_up


def meter(bench: Bench, results: Results, *texts: EvaluationText) -> Meter:
    return Meter(bench.reference, texts, results, Silent())


def test_what_was_measured_is_not_measured_again(bench: Bench, tmp_path: Path) -> None:
    path = bench.candidates[0].path
    sha256 = sha256_file(path)
    first = meter(bench, Results(tmp_path / "results.json"), WIKI)
    first.measure(path, sha256)
    assert len(bench.calls) == 2  # the base, and the file
    results = Results(tmp_path / "results.json")
    again = meter(bench, results, WIKI, CODE)
    assert [again.texts[key].name for key in again.missing(sha256)] == ["code"]
    again.measure(path, sha256)
    assert (len(bench.calls), bench.n_base_calls) == (4, 2)
    cell = results.cell(sha256, results.facts["texts"]["wiki"]["key"])
    assert cell is not None
    assert cell.evaluation.mean_kld == pytest.approx(bench.values["a"]["kld"].mean(), abs=1e-5)
    assert len(cell.evaluation.group_kld) == N_CHUNKS


def test_one_base_serves_all_files_and_is_deleted_at_the_end(bench: Bench, tmp_path: Path) -> None:
    shared = meter(bench, Results(tmp_path / "results.json"), WIKI)
    for candidate in bench.candidates:
        shared.measure(candidate.path, sha256_file(candidate.path))
    assert bench.n_base_calls == 1
    assert bench.evaluation.is_dir()
    shared.close()
    assert not bench.evaluation.exists()


def test_a_failure_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    path, fail = bench.candidates[0].path, bench.bin / "fail"
    bench.program(before='if kld and os.path.exists(os.path.join(folder, "fail")): sys.exit(3)')
    meter(bench, Results(tmp_path / "results.json"), WIKI).measure(path, "sha")
    fail.touch()
    with pytest.raises(ToolchainError):
        meter(bench, Results(tmp_path / "results.json"), CODE, WIKI).measure(path, "sha")
    fail.unlink()
    again = meter(bench, Results(tmp_path / "results.json"), CODE, WIKI)
    assert [again.texts[key].name for key in again.missing("sha")] == ["code"]
    again.measure(path, "sha")
    assert again.missing("sha") == []


def test_cells_depend_on_all_that_changes_a_figure() -> None:
    key = cell_key("source", "text", 24, 512, {"program": "a"})
    others = [
        cell_key("other", "text", 24, 512, {"program": "a"}),
        cell_key("source", "other", 24, 512, {"program": "a"}),
        cell_key("source", "text", 12, 512, {"program": "a"}),
        cell_key("source", "text", 24, 256, {"program": "a"}),
        cell_key("source", "text", 24, 512, {"program": "b"}),
    ]
    assert len({key, *others}) == 6
    assert key == cell_key("source", "text", 24, 512, {"program": "a"})


def plan_of(folder: Path, calls: list[str], most_bytes: int = 1 << 20) -> Planned:
    """A plan that writes a small GGUF and says so."""

    def write() -> Path:
        calls.append("write")
        return write_gguf(folder / "written.gguf")

    qtypes = {name: "F32" for name, (_, kind) in TENSORS.items() if kind == "BF16"}  # not what is written: that counts
    return Planned("Q4_K_M/plain", "parts", qtypes, most_bytes, 0.05, {"estimate": 3.0}, write)


def test_a_file_is_noted_as_it_was_written(tmp_path: Path) -> None:
    model = GgufModel(write_gguf(tmp_path / "source.gguf"))
    results = Results(tmp_path / "results.json")
    facts = made(plan_of(tmp_path, []), model, tmp_path / "files" / "a.gguf", results)
    assert Results(tmp_path / "results.json").file("Q4_K_M/plain") == facts
    assert set(facts.qtypes.values()) == {"BF16"}
    assert facts.n_bytes == (tmp_path / "files" / "a.gguf").stat().st_size
    assert not (tmp_path / "written.gguf").exists()


def test_a_kept_file_serves_other_texts_while_it_is_what_was_noted(tmp_path: Path) -> None:
    model = GgufModel(write_gguf(tmp_path / "source.gguf"))
    results, target, plan = Results(tmp_path / "results.json"), tmp_path / "a.gguf", plan_of(tmp_path, [])
    assert kept(plan, target, results) is None
    facts = made(plan, model, target, results)
    assert kept(plan, target, results) == facts
    assert kept(replace(plan, made_from="other parts"), target, results) is None
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    assert kept(plan, target, results) is None
    target.unlink()
    assert kept(plan, target, results) is None


def test_a_file_larger_than_stocks_is_refused(tmp_path: Path) -> None:
    model = GgufModel(write_gguf(tmp_path / "source.gguf"))
    with pytest.raises(Bitclass3Error, match=r"Q4_K_M/plain came out with [\d,]+ bytes, [\d,]+ more than the mix"):
        made(plan_of(tmp_path, [], most_bytes=100), model, tmp_path / "a.gguf", Results(tmp_path / "results.json"))
    assert not (tmp_path / "a.gguf").exists()
    assert Results(tmp_path / "results.json").file("Q4_K_M/plain") is None


def test_a_second_call_makes_and_measures_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    bench.prints("Q4_K_M-plain", (bench.bin / "a.txt").read_text())
    plan = plan_of(tmp_path, calls)
    monkeypatch.setattr(benchmark_module, "planned", lambda setup, peers, size, recipe: plan)
    monkeypatch.setattr(benchmark_module, "built", lambda progress: bench.reference)
    monkeypatch.setattr(Texts, "found", classmethod(lambda cls, given, root: cls(tmp_path)))
    monkeypatch.setattr(Texts, "calibration", lambda self, domain="mixed": [])
    monkeypatch.setattr(Texts, "evaluation", lambda self, names, n_chunks=None: [WIKI])
    given = ["--sizes", "Q4_K_M", "--recipes", "plain", "--out", str(tmp_path / "results"), "--docs", str(tmp_path / "page.md")]
    for _ in range(2):
        main(given)
        assert calls == ["write"]
        assert len(bench.calls) == 2
    assert "| Q4_K_M | **" in (tmp_path / "page.md").read_text()
    assert not list((tmp_path / "results" / "files").iterdir())  # neither the file nor the base logits
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--set", "estimate.options.seed=3"])


def test_settings_for_all_of_ours_and_for_one() -> None:
    given = ["estimate.options.seed=1", "feedback:export.options.rounds=3", "plain:a=b:c"]
    assert settings_of("plain", given) == [*OURS["plain"], "estimate.options.seed=1", "a=b:c"]
    assert settings_of("feedback", given) == [*OURS["feedback"], "estimate.options.seed=1", "export.options.rounds=3"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--sizes", "Q4_K_X"], "unknown size 'Q4_K_X'; did you mean 'Q4_K_M'?"),
        (["--recipes", "stok"], "unknown recipe 'stok'; did you mean 'stock'?"),
        (["stability", "--variants", "mixed"], "unknown variant 'mixed'"),
        (["--data", "no-such-folder"], "no-such-folder lacks wiki.test.raw, wiki.utf8"),
    ],
)
def test_bad_arguments_are_one_line(given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path)])
    assert said in capsys.readouterr().err


def test_a_damaged_results_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(Bitclass3Error, match=r"results\.json cannot be read .*mend or delete it"):
        Benchmark(parser().parse_args(["report", "--out", str(tmp_path)]), Silent())


def test_the_share_of_an_allocation_that_changed() -> None:
    n_params = {"a": 256, "b": 512, "c": 256}
    reference = {"a": "Q4_K", "b": "Q8_0", "c": "Q4_K"}
    assert change(reference, reference, n_params) == Change(0, 0)
    moved = change({**reference, "b": "Q6_K"}, reference, n_params)
    assert moved.tensors == pytest.approx(1 / 3)
    assert moved.n_bytes == pytest.approx(512 * 8.5 / (512 * 8.5 + 512 * 4.5))


def test_variants_change_one_thing_each() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS:
        changed = [variant.n_tokens != REFERENCE.n_tokens, variant.seed != REFERENCE.seed, variant.domain != REFERENCE.domain]
        assert sum(changed) == (variant != REFERENCE)
    assert Variant(seed=2).settings == ("estimate.options.n_tokens=16384", "estimate.options.seed=2")


def test_the_table_of_stability(bench: Bench, tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    measured = Meter(bench.reference, [WIKI], results, Silent(), STABILITY_GROUP)
    results.put_facts(n_params=dict.fromkeys(("a", "b"), 256))
    facts = made(plan_of(tmp_path, []), bench.reference, tmp_path / "x.gguf", results)
    variants = {REFERENCE: ({"a": "Q4_K", "b": "Q4_K"}, 0), Variant(seed=1): ({"a": "Q4_K", "b": "Q5_K"}, 1)}
    for variant, (qtypes, number) in variants.items():
        results.put_file(name_of(variant, "Q3_K_M"), replace(facts, qtypes=qtypes, sha256=f"sha{number}"))
        measured.measure(bench.candidates[number].path, f"sha{number}")
    lines = stability_lines(results, ("Q3_K_M", "Q4_K_M"))
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    assert len(rows) == 3  # header, reference, one variant; nothing of Q4_K_M
    assert rows[1][0] == "| reference: 16,384 tokens, seed 0, mixed text"
    assert rows[1][1:4] == ["", "", "0.0500"]
    assert rows[2][:3] == ["| seed 1", "50 %", "50 %"]
    assert rows[2][5].startswith("+")  # half as much again
    assert stability_lines(Results(tmp_path / "none.json"), ("Q3_K_M",))[-1] == "Nothing is measured yet."

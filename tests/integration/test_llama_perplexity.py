"""The real llama-perplexity on the example model: it agrees with torch, but for the activations that llama.cpp quantizes."""

import importlib.util
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bitclass3_llama_perplexity import Options, bitclass3_evaluate
from command import CALIBRATION, EVALUATION, GGUF, MODEL, ROOT, TEXT, Done, bitclass3

from bitclass3_core.corpus import Corpus, document, load_corpus
from bitclass3_core.errors import Bitclass3Error, ModelFileError, ToolchainError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Silent

pytestmark = pytest.mark.slow
N_CHUNKS = 16
FLOOR = 1e-4  # of the 16-bit log-probabilities: 5e-4 is for vocabularies of 150,000, the example's is 4,096
RUN = ["--set", "estimate.options.n_tokens=2048", "--menu", "k", "--plugin", "llama-perplexity"]
Three = tuple[Evaluation, Evaluation, Evaluation]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """benchmarks/activation_quantization.py, whose measurement this is."""
    spec = importlib.util.spec_from_file_location("activation_quantization", ROOT / "benchmarks" / "activation_quantization.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the measured files lie."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def three(benchmark: ModuleType, folder: Path, llama_cpp: Path) -> dict[str, Three]:
    """By type: in torch, in llama.cpp with F32 weights, in llama.cpp as the file is."""
    found = benchmark.measured(folder, ("Q4_K", "Q3_K"), N_CHUNKS, llama_cpp)
    return {qtype: evaluations for qtype, *evaluations in found}


@pytest.mark.parametrize("qtype", ["Q4_K", "Q3_K"])
def test_agrees_with_torch_on_the_same_weights(three: dict[str, Three], benchmark: ModuleType, qtype: str) -> None:
    torch, plain, _ = three[qtype]
    assert (plain.n_tokens, plain.n_chunks) == (torch.n_tokens, torch.n_chunks)
    mean, error = benchmark.difference(plain, torch)
    assert abs(mean) < 3 * error + FLOOR
    assert abs(mean) < 0.01 * torch.mean_kld
    assert plain.ppl == pytest.approx(torch.ppl, rel=1e-3)
    assert plain.reference_ppl == pytest.approx(torch.reference_ppl, rel=1e-3)
    assert plain.same_top1 == pytest.approx(torch.same_top1, abs=0.005)
    assert plain.median_kld == pytest.approx(torch.median_kld, rel=0.02, abs=FLOOR)
    assert plain.p99_kld == pytest.approx(torch.p99_kld, rel=0.05)


@pytest.mark.parametrize("qtype", ["Q4_K", "Q3_K"])
def test_errors_agree_with_those_of_torchs_chunks(three: dict[str, Three], qtype: str) -> None:
    torch, plain, _ = three[qtype]
    assert plain.se_kld == pytest.approx(torch.se_kld, rel=0.05), "the same sixteen chunks"
    assert plain.se_ppl == pytest.approx(torch.se_ppl, rel=0.05)
    assert plain.se_same_top1 == pytest.approx(torch.se_same_top1, rel=0.05)


@pytest.mark.parametrize("qtype", ["Q4_K", "Q3_K"])
def test_rest_is_the_quantization_of_activations(three: dict[str, Three], qtype: str) -> None:
    _, plain, file = three[qtype]
    difference = paired_difference(file, plain)
    assert difference is not None
    mean, error = difference
    assert mean > 3 * error
    assert mean > 3 * FLOOR


def test_two_candidates_are_told_apart(three: dict[str, Three]) -> None:
    difference = paired_difference(three["Q3_K"][2], three["Q4_K"][2])
    assert difference is not None
    assert difference[0] > 5 * difference[1] > 0
    assert paired_difference(three["Q3_K"][2], three["Q3_K"][0]) is None, "another evaluator's chunks are not known to be the same"


def test_nothing_is_left(three: dict[str, Three], folder: Path) -> None:
    assert three
    assert not (folder / "evaluation").exists()


def wrapped(llama_cpp: Path, folder: Path, before: str) -> Path:
    """A folder with the real program, called after some lines of shell that count the call."""
    program = folder / "llama-perplexity"
    real = next(path for path in (llama_cpp / "bin" / program.name, llama_cpp / program.name) if path.is_file())
    folder.mkdir()
    count = f'case "$*" in *--version*) ;; *) echo "$@" >> {shlex.quote(str(folder))}/calls.txt;; esac'
    program.write_text(f'#!/bin/bash\n{count}\n{before}\nexec {shlex.quote(str(real))} "$@"\n')
    program.chmod(0o755)
    return folder


def evaluate(folder: Path, names: Sequence[str], corpus: Corpus | None = None, **options: Any) -> list[Evaluation]:
    return bitclass3_evaluate(
        reference=GgufModel(GGUF),
        candidates=[GgufModel(folder / f"{name}.gguf") for name in names],
        corpus=corpus or load_corpus([CALIBRATION], [EVALUATION]),
        options=Options(**{"n_chunks": 8, **options}),
        progress=Silent(),
    )


@pytest.fixture
def copies(three: dict[str, Three], folder: Path, tmp_path: Path) -> Path:
    """A folder of its own with the two files."""
    assert three
    (tmp_path / "copies").mkdir()
    for name in ("Q4_K", "Q3_K"):
        (tmp_path / "copies" / f"{name}.gguf").hardlink_to(folder / f"{name}.gguf")
    return tmp_path / "copies"


def test_kept_base_is_used_again(copies: Path, llama_cpp: Path, tmp_path: Path) -> None:
    program = wrapped(llama_cpp, tmp_path / "bin", "")
    first = evaluate(copies, ["Q4_K", "Q3_K"], keep_base=True, llama_cpp=program)
    (base,) = (copies / "evaluation").iterdir()
    assert len((program / "calls.txt").read_text().splitlines()) == 3
    second = evaluate(copies, ["Q4_K"], keep_base=True, llama_cpp=program)
    assert len((program / "calls.txt").read_text().splitlines()) == 4
    assert second[0].mean_kld == pytest.approx(first[0].mean_kld, abs=2e-6)
    assert list((copies / "evaluation").iterdir()) == [base]


@pytest.mark.parametrize("keep", [True, False])
def test_disk_that_is_full_while_logits_are_written(copies: Path, llama_cpp: Path, tmp_path: Path, keep: bool) -> None:
    """A limit on the size of files is what a full disk looks like to the program: it goes on, and ends with exit code 0."""
    program = wrapped(llama_cpp, tmp_path / "bin", "ulimit -f 3000; trap '' XFSZ")
    with pytest.raises(Bitclass3Error, match=r"^no room on disk for the base logits: 2\.93 MiB of 15\.97 MiB were written, "):
        evaluate(copies, ["Q4_K"], keep_base=keep, llama_cpp=program)
    assert sorted(path.name for path in copies.iterdir()) == ["Q3_K.gguf", "Q4_K.gguf"]


def test_too_little_text_for_the_real_program(copies: Path, llama_cpp: Path) -> None:
    text = Path(EVALUATION).read_text(encoding="utf-8")[:2000]
    with pytest.raises(
        ModelFileError, match=r"^the evaluation text has (\d{3}|too few) tokens, llama-perplexity needs 1,024 \(twice n_ctx\)"
    ):
        evaluate(copies, ["Q4_K"], Corpus((), (document(text, "all"),)), llama_cpp=llama_cpp)
    assert not (copies / "evaluation").exists()


def test_option_that_the_real_program_does_not_know(copies: Path, llama_cpp: Path) -> None:
    with pytest.raises(ToolchainError, match=r"^this llama-perplexity does not know the option --not-yet-invented"):
        evaluate(copies, ["Q4_K"], llama_cpp=llama_cpp, arguments=["--not-yet-invented"])
    assert not (copies / "evaluation").exists()


def test_reference_against_itself(llama_cpp: Path, tmp_path: Path) -> None:
    (tmp_path / "itself.gguf").hardlink_to(GGUF)
    (found,) = evaluate(tmp_path, ["itself"], llama_cpp=llama_cpp)
    assert found.mean_kld < 1e-5
    assert found.same_top1 > 0.999


def run(llama_cpp: Path, out: Path, *more: str) -> Done:
    """A whole run that evaluates with llama-perplexity."""
    options = ["--set", f"evaluate.options.llama_cpp={llama_cpp}", "--set", "evaluate.options.n_chunks=16"]
    return bitclass3("run", *MODEL, *TEXT, *RUN, *options, "--target-bpw", 4.8, "--out", out, *more)


def test_whole_run(llama_cpp: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run(llama_cpp, out)
    assert ended.code == 0, ended.err
    assert "evaluate: 16 chunks of 512" in ended.err
    assert "of disk, deleted at the end" in ended.err
    assert sorted(path.suffix for path in (out / "evaluation").iterdir()) == [".npz", ".npz"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "measured against the source by llama-perplexity" in card
    assert "4,080 tokens scored in 16 chunks" in card
    again = run(llama_cpp, out, "--json")
    assert again.code == 0, again.err
    figures = json.loads(again.out)["candidates"][0]["evaluation"]
    assert figures["rms_dp"] > 0.001
    assert len(figures["figures"]) == 34
    assert f"{figures['mean_kld']:.4f} ± {figures['se_kld']:.4f}" in ended.out
    assert f"{figures['ppl']:.3f}" in ended.out
    assert f"{figures['ppl']:#.5g} ± " in card
    assert "paired difference" in ended.out

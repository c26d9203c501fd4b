"""The evaluator that runs llama-perplexity, with a program that stands in for it."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitclass3_llama_perplexity import Options
from gguf_files import write_gguf
from perplexity_bench import CORPUS, N_BYTES, N_CHUNKS, N_CTX, N_VOCAB, Bench
from perplexity_runs import N_SCORED, table

from bitclass3_core.corpus import Corpus
from bitclass3_core.evaluation import paired_difference
from bitclass3_core.files import human_bytes
from bitclass3_core.gguf.model import GgufModel

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the program is a script with a shebang")


@pytest.fixture(autouse=True)
def _no_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_several_candidates_against_one_base(bench: Bench) -> None:
    a, b = bench.evaluate()
    assert [a.candidate, b.candidate] == ["a", "b"]
    assert (a.n_tokens, a.n_chunks, a.evaluator) == (N_CHUNKS * N_SCORED, N_CHUNKS, "llama-perplexity 1 (abc)")
    assert a.mean_kld == pytest.approx(bench.values["a"]["kld"].mean(), abs=1e-6)
    assert b.mean_kld == pytest.approx(1.5 * a.mean_kld, abs=2e-6)
    mean, error = paired_difference(a, b)
    assert mean == pytest.approx(a.mean_kld - b.mean_kld)
    assert 0 < error < b.se_kld
    base, *klds = bench.calls
    assert base[:4] == ["-m", str(bench.reference.path), "-c", "512"]
    assert base[4:8:2] == ["-f", "--chunks"]
    assert base[7] == "16"
    assert [call[1] for call in klds] == [str(candidate.path) for candidate in bench.candidates]
    assert all(call[-1] == "--kl-divergence" and call[-2].startswith("base-") for call in klds)
    assert not bench.evaluation.exists(), "base and text are gone, and the folder that was made for them"


def test_disk_and_minutes_are_stated_before_it_starts(bench: Bench) -> None:
    bench.evaluate()
    assert len(bench.progress.said) == 1
    line = bench.progress.said[0]
    assert line.startswith("evaluate: 16 chunks of 512 (4,080 scored tokens: expect 4.9% error of the mean KLD)")
    assert f"base logits in {bench.evaluation}: {human_bytes(N_BYTES)} of disk, deleted at the end; about" in line
    assert "minutes" in line
    assert line.endswith("a guess")


def test_stated_size_is_the_size(bench: Bench) -> None:
    bench.evaluate(keep_base=True)
    (base,) = bench.evaluation.iterdir()
    assert base.stat().st_size == N_BYTES


def test_progress_counts_every_chunk(bench: Bench) -> None:
    bench.evaluate()
    assert bench.progress.bars == [
        ["base logits of source.gguf", N_CHUNKS, N_CHUNKS],
        ["evaluate a.gguf", N_CHUNKS, N_CHUNKS],
        ["evaluate b.gguf", N_CHUNKS, N_CHUNKS],
    ]


def test_text_is_the_documents_joined_by_blank_lines(bench: Bench) -> None:
    bench.program(before='if not kld: open(os.path.join(folder, "seen.txt"), "w").write(open(value("-f")).read())')
    bench.evaluate()
    seen = (bench.bin / "seen.txt").read_text()
    assert seen == "\n\n".join(doc.text.strip("\n") for doc in CORPUS.evaluation) + "\n"


def test_options_become_arguments(bench: Bench) -> None:
    bench.evaluate(threads=3, gpu_layers=0, arguments=["--flash-attn", "off"])
    assert all(call[2:10] == ["-c", "512", "-t", "3", "-ngl", "0", "--flash-attn", "off"] for call in bench.calls)


@pytest.mark.parametrize("wrong", [{"n_ctx": 8}, {"relative_error": 0}, {"gpu_layers": -2}, {"n_tokens": 4096}])
def test_bad_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)


def test_kept_base_is_used_again(bench: Bench) -> None:
    first = bench.evaluate(keep_base=True)
    kept = bench.files
    assert len(kept) == 1
    assert kept[0].startswith("base-")
    assert kept[0].endswith(".logits")
    second = bench.evaluate(keep_base=True)
    assert bench.n_base_calls == 1
    assert "the base logits kept there are used again" in bench.progress.said[-1]
    assert [e.to_json() for e in first] == [e.to_json() for e in second]
    bench.evaluate()
    assert bench.files == kept, "what an earlier call kept is not this call's to delete"


def test_base_of_anything_else_is_not_used_again(bench: Bench, tmp_path: Path) -> None:
    bench.evaluate(keep_base=True)
    bench.evaluate(Corpus((), CORPUS.evaluation[:-1]), keep_base=True)
    bench.evaluate(keep_base=True, arguments=["--flash-attn", "off"])
    bench.program(before="# another build")
    bench.evaluate(keep_base=True)
    bench.reference = GgufModel(write_gguf(tmp_path / "other.gguf", values={"output_norm.weight": np.zeros(256, np.float32)}))
    bench.evaluate(keep_base=True)
    assert bench.n_base_calls == len(bench.files) == 5


def test_damaged_kept_base_is_written_again(bench: Bench) -> None:
    bench.evaluate(keep_base=True)
    (base,) = bench.evaluation.iterdir()
    base.write_bytes(base.read_bytes()[:-100])
    bench.evaluate()
    assert bench.n_base_calls == 2
    assert bench.files == []


def test_option_beats_path(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    for path in bench.bin.iterdir():
        path.rename(tmp_path / "given" / path.name)
    bench.bin /= "../given"
    assert len(bench.evaluate(llama_cpp=tmp_path / "given")) == 2
    assert len(bench.calls) == 3


def test_what_a_killed_run_left_is_removed(bench: Bench) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    bench.evaluation.mkdir()
    stale = bench.evaluation / f".base-0123456789abcdef.logits.{ended.pid}.part"
    alive = bench.evaluation / f".base-0123456789abcdef.logits.{os.getpid()}.part"
    other = bench.evaluation / f".a.npz.{ended.pid}.part"
    for path in (stale, alive, other):
        path.touch()
    bench.evaluate()
    assert bench.files == sorted([alive.name, other.name])


def test_low_kld_is_said_to_be_near_the_floor(bench: Bench) -> None:
    values = {**bench.values["a"], "kld": bench.values["a"]["kld"] / 20}
    bench.prints("a", table(**values))
    bench.evaluate()
    near = [line for line in bench.progress.said if "near the floor" in line]
    assert len(near) == 1
    assert near[0].startswith(f"evaluate: mean KLD {values['kld'].mean():.6f} of a.gguf is near the floor")


def test_header_of_the_file_is_what_the_program_writes(bench: Bench) -> None:
    bench.evaluate(keep_base=True)
    (base,) = bench.evaluation.iterdir()
    assert struct.unpack("<8siii", base.read_bytes()[:20]) == (b"_logits_", N_CTX, N_VOCAB, N_CHUNKS)

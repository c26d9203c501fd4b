"""One clear error, and no file left, for every way in which llama-perplexity or its input fails."""

import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from gguf_files import METADATA, TENSORS, write_gguf
from perplexity_bench import CHUNK_BYTES, N_BYTES, N_CHUNKS, Bench
from perplexity_runs import N_SCORED, table

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import Bitclass3Error, ModelFileError, ToolchainError
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


def test_program_that_crashes_half_way_through_the_base(bench: Bench) -> None:
    bench.program(each="if number == 9: say('\\nbad tensor\\n'); os.kill(os.getpid(), signal.SIGSEGV)")
    message = r"^llama-perplexity crashed \(SIGSEGV\); its last lines: .*\| bad tensor$"
    with pytest.raises(ToolchainError, match=message):
        bench.evaluate(keep_base=True)
    assert bench.files == []


def test_program_that_crashes_half_way_through_a_candidate(bench: Bench) -> None:
    bench.program(before="if stem == 'b': say('chunk 1\\n'); os.kill(os.getpid(), signal.SIGABRT)")
    with pytest.raises(ToolchainError, match=r"crashed \(SIGABRT\); its last lines: chunk 1$"):
        bench.evaluate()
    assert bench.files == []


def test_ctrl_c_leaves_no_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(units: float = 1.0) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.progress, "advance", interrupt)
    bench.program(each="time.sleep(0.05)")
    with pytest.raises(KeyboardInterrupt):
        bench.evaluate(keep_base=True)
    assert bench.files == []


def test_full_disk_that_the_program_does_not_notice(bench: Bench) -> None:
    bench.program(each="chunk = chunk[: len(chunk) // 2] if number == 16 else chunk")
    with pytest.raises(Bitclass3Error) as caught:
        bench.evaluate(keep_base=True)
    written = human_bytes(N_BYTES - CHUNK_BYTES // 2)
    assert str(caught.value).startswith(
        f"no room on disk for the base logits: {written} of {human_bytes(N_BYTES)} were written, {bench.evaluation} has "
    )
    assert "free some, use another --out, or lower evaluate.options.n_chunks" in str(caught.value)
    assert bench.files == []


def test_full_disk_is_noticed_at_once_not_after_hours(bench: Bench) -> None:
    bench.program(
        n_vocab=20_000,
        each="chunk = b'' if number > 3 else chunk; time.sleep(0.05 if number < 8 else 2)",
        after="open(os.path.join(folder, 'finished'), 'w')",
    )
    with pytest.raises(Bitclass3Error, match=r"^no room on disk for the base logits"):
        bench.evaluate()
    assert not (bench.bin / "finished").exists()
    assert bench.files == []


def test_too_little_room_is_said_before_it_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, N_BYTES - 1))
    with pytest.raises(Bitclass3Error, match=f"no room on disk for the base logits: it takes {human_bytes(N_BYTES)}"):
        bench.evaluate()
    assert bench.calls == []


@pytest.mark.parametrize("fails", ["not kld", "kld"])
def test_llama_cpp_that_is_too_old_for_an_option(bench: Bench, fails: str) -> None:
    bench.program(before=f"if {fails}: say('error: invalid argument: --kl-divergence-base\\n'); sys.exit(1)")
    with pytest.raises(
        ToolchainError, match=r"^this llama-perplexity does not know the option --kl-divergence-base: its llama\.cpp"
    ):
        bench.evaluate()
    assert bench.files == []


def test_architecture_that_llama_cpp_does_not_know(bench: Bench) -> None:
    line = "llama_model_load: error loading model: unknown model architecture: \\'qwen99\\'"
    bench.program(before=f"say('{line}\\nllama_perplexity: unable to load model\\n'); sys.exit(1)")
    with pytest.raises(ToolchainError, match=r"^this llama-perplexity does not know the architecture 'qwen99' of source\.gguf: "):
        bench.evaluate()


def test_exit_code_0_without_statistics(bench: Bench) -> None:
    bench.prints("b", "kl_divergence: failed reading log-probs for chunk 4\n\n")
    message = r"^llama-perplexity measured nothing of b\.gguf; its last lines: kl_divergence: failed reading log-probs for chunk 4$"
    with pytest.raises(ToolchainError, match=message):
        bench.evaluate()
    assert bench.files == []


def test_exit_code_0_without_base_logits(bench: Bench) -> None:
    bench.program(before="if not kld: open(path, 'w'); say('perplexity: failed to decode\\n'); sys.exit()")
    with pytest.raises(
        ToolchainError, match=r"^llama-perplexity wrote no base logits; its last lines: perplexity: failed to decode$"
    ):
        bench.evaluate()
    assert bench.files == []


def test_candidate_that_computes_nan(bench: Bench) -> None:
    text = table(**bench.values["a"])
    mean = f"Mean    KLD: {bench.values['a']['kld'].mean():10.6f}"
    assert mean in text
    bench.prints("a", text.replace(mean, "Mean    KLD:       -nan"))
    with pytest.raises(ModelFileError, match=r"a\.gguf computes NaN in llama\.cpp \(mean KLD nan\)"):
        bench.evaluate()


def test_vocabularies_of_two_sizes_are_refused_before_anything_runs(bench: Bench, tmp_path: Path) -> None:
    metadata = {**METADATA, "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.scores": [0.0, 0.0]}
    bench.candidates[1] = GgufModel(write_gguf(tmp_path / "other.gguf", metadata=metadata))
    message = rf"^{tmp_path}/other\.gguf has a vocabulary of 2 tokens, {bench.reference.path} one of 4; compare files of one model$"
    with pytest.raises(ModelFileError, match=message):
        bench.evaluate()
    assert bench.calls == []


@pytest.mark.parametrize("ends", ["", "os.kill(os.getpid(), signal.SIGABRT)"])
def test_vocabularies_that_only_llama_cpp_finds_to_differ(bench: Bench, ends: str) -> None:
    """It goes on to figures that mean nothing, or crashes."""
    bench.program(
        before="if stem == 'b': say('kl_divergence: inconsistent vocabulary (4096 vs 4000)\\n')", after=ends and f"if kld: {ends}"
    )
    bench.candidates.reverse()
    with pytest.raises(ModelFileError, match=r"b\.gguf has a vocabulary of 4,000 tokens, .*source\.gguf one of 4,096"):
        bench.evaluate()
    assert bench.files == []


def test_too_little_text(bench: Bench) -> None:
    line = "perplexity: the data file you provided tokenizes to only 645 tokens"
    bench.program(before=f"open(path, 'wb').write(b'_logits_' + bytes(4)); say('{line}\\n'); sys.exit()")
    with pytest.raises(ModelFileError) as caught:
        bench.evaluate()
    assert str(caught.value) == (
        "the evaluation text has 645 tokens, llama-perplexity needs 1,024 (twice n_ctx); "
        "give more with --eval-corpus, or lower evaluate.options.n_ctx"
    )
    assert bench.files == []


def test_too_little_text_where_the_program_lost_its_last_line(bench: Bench) -> None:
    bench.program(before="open(path, 'wb').write(b'_logits_' + bytes(4)); sys.exit()")
    with pytest.raises(ModelFileError, match=r"^the evaluation text has too few tokens, llama-perplexity needs 1,024"):
        bench.evaluate()
    assert len(bench.calls) == 2
    assert bench.files == []


LOSES = "log = open(os.path.join(folder, 'calls.txt')).read(); lost = stem == 'a' and log.count('a.gguf') <= {n}"
CUT = "say(open(os.path.join(folder, 'a.txt')).read()[:{at}]) if lost else None; sys.exit() if lost else None"


@pytest.mark.parametrize("at", [200, 1500, -20])
def test_program_that_loses_the_end_of_its_output_is_run_again(bench: Bench, at: int) -> None:
    """llama.cpp does not wait for the thread that prints: one run in thirty of a small model on a busy machine ends so."""
    bench.program(before=f"{LOSES.format(n=1)}; {CUT.format(at=at)}")
    a, _ = bench.evaluate()
    assert a.mean_kld == pytest.approx(bench.values["a"]["kld"].mean(), abs=1e-6)
    assert len(bench.calls) == 4
    assert "evaluate: llama-perplexity lost the end of its output over a.gguf, running it again" in bench.progress.said


def test_program_that_always_loses_the_end_of_its_output(bench: Bench) -> None:
    bench.program(before=f"{LOSES.format(n=9)}; {CUT.format(at=1500)}")
    with pytest.raises(ToolchainError, match=r"^llama-perplexity measured nothing of a\.gguf; its last lines: "):
        bench.evaluate()
    assert len(bench.calls) == 4
    assert bench.files == []


def test_no_text(bench: Bench) -> None:
    with pytest.raises(ModelFileError, match="there is no evaluation text"):
        bench.evaluate(Corpus((), ()))


def test_fewer_chunks_than_wanted(bench: Bench) -> None:
    a, _ = bench.evaluate(n_chunks=64)
    assert (a.n_chunks, a.n_tokens) == (N_CHUNKS, N_CHUNKS * N_SCORED)
    assert bench.progress.warned == [
        "the evaluation text has 16 chunks of 512, 64 were wanted: expect an error of 4.9% of the mean KLD; give more with --eval-corpus"
    ]


def test_too_few_scored_tokens(bench: Bench) -> None:
    message = r"^2 chunks of 64 have 62 scored tokens, llama-perplexity makes no statistics of fewer than 100; "
    with pytest.raises(ModelFileError, match=message):
        bench.evaluate(n_chunks=2, n_ctx=64)
    assert bench.calls == []
    bench.program(n_chunks=2)
    with pytest.raises(ModelFileError, match=message):
        bench.evaluate(n_chunks=16, n_ctx=64)
    assert bench.files == []


NOT_MODELS: list[tuple[dict[str, Any], str, str]] = [
    ({"general.type": "mmproj"}, "clip", "a multimodal projector; give the GGUF of the language model"),
    ({}, "clip", "a multimodal projector"),
    ({"general.type": "adapter"}, "llama", "a LoRA adapter; merge it into its base model"),
    ({"general.type": "imatrix"}, "imatrix", "an importance matrix"),
]


@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize(("metadata", "arch", "message"), NOT_MODELS)
def test_file_that_is_no_model(bench: Bench, tmp_path: Path, metadata: dict[str, Any], arch: str, message: str, role: str) -> None:
    other = GgufModel(write_gguf(tmp_path / "other.gguf", metadata={**METADATA, **metadata}, arch=arch))
    if role == "reference":
        bench.reference = other
    else:
        bench.candidates[1] = other
    with pytest.raises(ModelFileError, match=rf"^{tmp_path}/other\.gguf is {message}"):
        bench.evaluate()
    assert bench.calls == []


def test_vocabulary_without_weights(bench: Bench, tmp_path: Path) -> None:
    norm = {"output_norm.weight": TENSORS["output_norm.weight"]}
    bench.candidates[0] = GgufModel(write_gguf(tmp_path / "vocab.gguf", norm))
    with pytest.raises(ModelFileError, match=r"vocab\.gguf has no layers"):
        bench.evaluate()


def test_model_whose_texts_end_with_a_token(bench: Bench, tmp_path: Path) -> None:
    metadata = {**METADATA, "tokenizer.ggml.add_eos_token": True}
    bench.candidates[0] = GgufModel(write_gguf(tmp_path / "eos.gguf", metadata=metadata))
    with pytest.raises(ModelFileError, match=r"eos\.gguf ends every text with an end token .*; evaluate with --plugin torch"):
        bench.evaluate()


def test_not_found(bench: Bench) -> None:
    (bench.bin / "llama-perplexity").unlink()
    with pytest.raises(ToolchainError, match=r"^llama-perplexity was not found; .*; --plugin torch needs no llama\.cpp$"):
        bench.evaluate()

"""The exporter with tuned scales on the example model: same size, types and codes, less divergence on text that it never saw."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bitclass3_gguf.codes import has_codes, unpack
from command import CALIBRATION, EVALUATION, GGUF, MODEL, TEXT, bitclass3, run
from rounding_runs import TARGET, mean_kld, n_quantized, ours

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.rounding_gains import SUFFIX, load_gains, load_tuning
from bitclass3_core.qtypes import qtype
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import run_program

pytestmark = pytest.mark.slow


def tuning(steps: int, rate: float = 1e-3) -> list[str]:
    return [
        *("--set", f"export.options.gguf.tuning_steps={steps}"),
        *("--set", f"export.options.gguf.tuning_rate={rate}", "--set", "export.options.gguf.n_ctx=256"),
    ]


def test_less_divergence_with_the_same_codes(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    done = run(out, *TARGET, *tuning(32))
    assert done.code == 0, done.err
    assert "scales tuned: KLD 0." in done.err
    assert mean_kld(out) < 0.97 * mean_kld(plain)
    assert ours(out).stat().st_size == ours(plain).stat().st_size
    before, after = GgufModel(ours(plain)), GgufModel(ours(out))
    assert {name: info.dtype for name, info in before.tensors.items()} == {name: info.dtype for name, info in after.tensors.items()}
    n_changed = 0
    for name, info in before.tensors.items():
        q = qtype(info.dtype)
        if q.is_float:
            assert (before.read_raw(name) == after.read_raw(name)).all(), name
        elif has_codes(q):
            a, b = (np.asarray(m.read_raw(name)).reshape(info.n_rows, -1) for m in (before, after))
            assert (unpack(a, q).codes == unpack(b, q).codes).all(), name
            n_changed += bool((a != b).any())
    assert n_changed > 30
    assert not (out / ".rounded").exists()
    record = ours(out).with_suffix(SUFFIX)
    gain = load_tuning(record)
    assert gain is not None
    assert 0 < gain.after < gain.before
    assert f"KLD {gain.before:.4f} before, {gain.after:.4f} after" in done.err
    assert load_gains(record) == {}, "no feedback came before"
    assert "The scales of all blocks were then tuned" in (out / "README.md").read_text()
    for stock in plain.glob("*stock*.gguf"):
        assert (out / stock.name).read_bytes() == stock.read_bytes()


def test_scales_stay_where_tuning_does_not_gain(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    done = run(out, *TARGET, *tuning(8, 0.1), "--until", "export", "--baseline", "none")
    assert done.code == 0, done.err
    assert "left as they were" in done.err
    assert ours(out).read_bytes() == ours(plain).read_bytes()
    assert (gain := load_tuning(ours(out).with_suffix(SUFFIX)))
    assert not gain.is_kept
    assert run(out, *TARGET, "--until", "export", "--baseline", "none").code == 0
    assert not ours(out).with_suffix(SUFFIX).exists(), "written plainly now: the record was of the file before"


def test_high_effort_is_feedback_and_then_tuning(plain: Path, tmp_path: Path, llama_cpp: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    text = ["--set", "export.options.gguf.n_tokens=4096", "--set", "export.options.gguf.n_ctx=256"]
    little = [*text, "--until", "export", "--baseline", "none"]
    done = run(out, *TARGET, "--effort", "normal", *little, "--set", "export.options.gguf.keep_rounded=true")
    assert done.code == 0, done.err
    assert f"error feedback: {n_quantized(out)} tensors" in done.err
    assert len(list((out / ".rounded").glob("*.npy"))) == n_quantized(out) == 63
    done = run(out, *TARGET, "--effort", "high", *little, *tuning(8))
    assert done.code == 0, done.err
    assert "error feedback" not in done.err, "it goes on with the tensors that normal effort left"
    assert "scales tuned: KLD 0." in done.err
    assert not (out / ".rounded").exists()
    assert ours(out).read_bytes() != ours(plain).read_bytes()
    assert list(out.glob("*.rounding.json"))
    program = find_program("llama-completion", llama_cpp).path
    checked = ["--check-tensors", "-p", "the", "-n", "1", "-no-cnv", "-c", "64", "-ngl", "0", "-t", "1", "--no-warmup"]
    run_program([str(program), "-m", str(ours(out)), *checked])  # llama.cpp validates every row, and would not load others


def test_goes_on_with_what_is_tuned(plain: Path, tmp_path: Path) -> None:
    """Killed while the file is written: the next run does not tune again, and the file is the same."""
    little = [*tuning(8), "--until", "export", "--baseline", "none"]
    whole, out = (Path(shutil.copytree(plain, tmp_path / name)) for name in ("whole", "out"))
    assert run(whole, *TARGET, *little).code == 0
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    assert run(out, "--target-bpw", 3.6, "--plugin", killer, *little[6:]).code == 9
    done = run(out, *TARGET, *little)
    assert done.code == 0, done.err
    assert "scales tuned" not in done.err
    assert load_tuning(ours(out).with_suffix(SUFFIX)) == load_tuning(ours(whole).with_suffix(SUFFIX))
    assert ours(out).read_bytes() == ours(whole).read_bytes()
    assert not (out / ".rounded").exists()


# The exporter itself, which dies before it writes the file.
KILLER = """
import os
import bitclass3_gguf
from bitclass3_core import hookimpl

bitclass3_gguf.write_file = lambda *arguments: os._exit(9)

@hookimpl
def bitclass3_export(model, architecture, allocation, sensitivity, corpus, out, stem, progress):
    options = bitclass3_gguf.Options(tuning_steps=8, tuning_rate=1e-3, n_ctx=256)
    bitclass3_gguf.bitclass3_export(model, architecture, allocation, sensitivity, corpus, out, stem, options, progress)
"""


def test_too_little_text_is_said_before_anything_is_tuned(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(json.loads(CALIBRATION.read_text().splitlines()[0])["text"][:2500])
    command = ["run", *MODEL, "--corpus", text, "--eval-corpus", EVALUATION, "--plugin", "uniform", *TARGET, "--menu", "k"]
    n_ctx = ["--set", "export.options.gguf.n_ctx=512", "--set", "export.options.gguf.tuning_steps=8"]
    done = bitclass3(*command, *n_ctx, "--until", "export", "--baseline", "none", "--out", tmp_path / "out")
    assert done.code == 1
    assert "has fewer than 1,024 tokens: too few to tune scales" in done.error
    assert not list((tmp_path / "out").glob("*bpw.gguf"))


def test_source_without_an_hf_folder(tmp_path: Path) -> None:
    command = ["run", "--model", GGUF, *TEXT, "--plugin", "uniform", *TARGET, *tuning(8), "--menu", "k", "--until", "export"]
    done = bitclass3(*command, "--baseline", "none", "--out", tmp_path / "out")
    assert done.code == 1
    assert "has no HF folder beside it, which torch needs" in done.error
    assert not list((tmp_path / "out").glob("model-*.gguf"))

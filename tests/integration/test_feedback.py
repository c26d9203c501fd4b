"""The exporter with rounding = "feedback" on the example model: a better file of the same size and types, resumable tensor by tensor."""

import shutil
from pathlib import Path

import pytest
from command import GGUF, TEXT, bitclass3, run
from rounding_runs import TARGET, mean_kld, n_quantized, ours

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.rounding_gains import load_gains

pytestmark = pytest.mark.slow
FEEDBACK = ["--set", "export.options.gguf.rounding=feedback", "--set", "export.options.gguf.n_tokens=1024"]


def test_same_size_and_types_and_less_divergence(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    # both factors are matrices: the few tokens of the other tests do not carry them
    done = run(out, *TARGET, *FEEDBACK[:2], "--set", "export.options.gguf.n_tokens=8192")
    assert done.code == 0, done.err
    assert f"error feedback: {n_quantized(out)} tensors; their part of the KL divergence is 0." in done.err
    a, b = GgufModel(ours(plain)), GgufModel(ours(out))
    assert ours(out).stat().st_size == ours(plain).stat().st_size
    assert {name: info.dtype for name, info in a.tensors.items()} == {name: info.dtype for name, info in b.tensors.items()}
    assert mean_kld(out) < 0.9 * mean_kld(plain)
    assert not (out / ".rounded").exists()
    (gains,) = (load_gains(path) for path in out.glob("*.rounding.json"))
    assert {name: gain.qtype for name, gain in gains.items()} == {name: b.tensors[name].dtype for name in gains}
    assert len(gains) == n_quantized(out) == 63, "all but a small ssm_alpha, which keeps its type"
    assert all(0 < gain.kept <= gain.plain for gain in gains.values())
    assert {gain.rounding for gain in gains.values()} >= {"rows alone", "rows together"}
    assert (a.read_raw("token_embd.weight") != b.read_raw("token_embd.weight")).any()
    (stock,) = (path.name for path in plain.glob("*stock*.gguf"))
    assert (out / stock).read_bytes() == (plain / stock).read_bytes(), "the stock mix is rounded as llama-quantize does"


def test_goes_on_with_the_tensors_that_are_done(plain: Path, tmp_path: Path) -> None:
    """Killed after one group of layers: the next run rounds the rest, and the file is the same."""
    little = [*FEEDBACK, "--set", "export.options.gguf.memory_gib=0.05", "--until", "export", "--baseline", "none"]
    whole = Path(shutil.copytree(plain, tmp_path / "whole"))
    assert run(whole, *TARGET, *little).code == 0
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    assert run(out, "--target-bpw", 3.6, "--plugin", killer, *little[6:]).code != 0
    left = sorted((out / ".rounded").glob("*.npy"))
    assert len(left) == 5
    done = run(out, *TARGET, *little)
    assert done.code == 0, done.err
    assert ours(out).read_bytes() == ours(whole).read_bytes()
    gains = load_gains(next(out.glob("*.rounding.json")))
    assert len(gains) == n_quantized(out) == 63, "those of the first, broken-off run are among them"


# The exporter itself, which dies at the sixth tensor that it keeps.
KILLER = """
import os
import bitclass3_gguf, bitclass3_gguf.rounded as rounded
from bitclass3_core import hookimpl

save, kept = rounded.RoundedTensors.save, []

def dying(self, name, *data):
    if len(kept) == 5:
        os._exit(9)
    kept.append(name)
    save(self, name, *data)

rounded.RoundedTensors.save = dying

@hookimpl
def bitclass3_export(model, architecture, allocation, sensitivity, corpus, out, stem, progress):
    options = bitclass3_gguf.Options(rounding="feedback", n_tokens=1024, memory_gib=0.05, threads=1)
    bitclass3_gguf.bitclass3_export(model, architecture, allocation, sensitivity, corpus, out, stem, options, progress)
"""


def test_source_without_an_hf_folder(tmp_path: Path) -> None:
    command = ["run", "--model", GGUF, *TEXT, "--plugin", "uniform", *TARGET, *FEEDBACK, "--menu", "k", "--until", "export"]
    done = bitclass3(*command, "--baseline", "none", "--out", tmp_path / "out")
    assert done.code == 1
    assert "has no HF folder beside it, which torch needs" in done.error
    assert not list((tmp_path / "out").glob("model-*.gguf"))

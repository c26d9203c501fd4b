"""The exporter with tuned scales on the example model: same size, types and codes, less divergence on text that it never saw."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bitclass3_gguf.codes import has_codes, unpack
from command import GGUF, TEXT, bitclass3, run

from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.qtypes import qtype

pytestmark = pytest.mark.slow
TARGET = ["--target-bpw", 3.6, "--plugin", "gguf", "--plugin", "recipe"]


def tuning(steps: int, rate: float = 1e-3) -> list[str]:
    return [
        *("--set", f"export.options.gguf.tuning_steps={steps}"),
        *("--set", f"export.options.gguf.tuning_rate={rate}", "--set", "export.options.gguf.n_ctx=256"),
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at 3.6 bpw with plain rounding."""
    out = tmp_path_factory.mktemp("plain") / "out"
    done = run(out, *TARGET)
    assert done.code == 0, done.err
    return out


def mean_kld(out: Path) -> float:
    path = next(path for path in (out / "evaluation").glob("*.npz") if "stock" not in path.stem)
    return float(json.loads(str(np.load(path)["figures"]))["mean_kld"])


def ours(out: Path) -> Path:
    return next(out.glob("*3.60bpw.gguf"))


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
    for stock in plain.glob("*stock*.gguf"):
        assert (out / stock.name).read_bytes() == stock.read_bytes()


def test_scales_stay_where_tuning_does_not_gain(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    done = run(out, *TARGET, *tuning(8, 0.1), "--until", "export", "--baseline", "none")
    assert done.code == 0, done.err
    assert "left as they were" in done.err
    assert ours(out).read_bytes() == ours(plain).read_bytes()


def test_source_without_an_hf_folder(tmp_path: Path) -> None:
    command = ["run", "--model", GGUF, *TEXT, "--plugin", "uniform", *TARGET, *tuning(8), "--menu", "k", "--until", "export"]
    done = bitclass3(*command, "--baseline", "none", "--out", tmp_path / "out")
    assert done.code == 1
    assert "has no HF folder beside it, which torch needs" in done.error
    assert not list((tmp_path / "out").glob("model-*.gguf"))

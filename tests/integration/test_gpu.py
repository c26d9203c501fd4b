"""The same results on a GPU as on the CPU, where there is a GPU."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitclass3_qwen35 import bitclass3_architecture
from bitclass3_torch.model import load_torch_model
from bitclass3_torch.moments import tensor_moments
from bitclass3_torch.statistics import collect
from bitclass3_torch.tokens import token_chunks
from command import CALIBRATION, EVALUATION, EXAMPLE, GGUF, run
from rounding_runs import TARGET, mean_kld, n_quantized, ours

from bitclass3_core.corpus import load_corpus
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.rounding_gains import load_gains
from bitclass3_core.progress import Silent

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
NAME = "blk.0.ffn_down.weight"


@pytest.fixture(scope="module")
def example() -> tuple[GgufModel, Any, np.ndarray]:
    model = GgufModel(GGUF, EXAMPLE)
    architecture = bitclass3_architecture(model=model)
    documents = load_corpus([CALIBRATION], [EVALUATION]).calibration
    tokenizer = load_torch_model(model, architecture, "cpu", "float32").tokenizer
    return model, architecture, token_chunks(tokenizer, documents, 8 * 512, 512, "calibration")[0]


def powers_on(example: tuple[GgufModel, Any, np.ndarray], device: str, dtype: str) -> dict[str, Any]:
    model, architecture, chunks = example
    loaded = load_torch_model(model, architecture, device, dtype)
    return collect(loaded, model, architecture, chunks, with_gradients=True, seed=0, progress=Silent())


@pytest.mark.parametrize(("dtype", "near"), [("float32", 0.002), ("bfloat16", 0.05)])
def test_sensitivity(example: Any, dtype: str, near: float) -> None:
    """Inputs agree to the precision of the type, gradients also to what other sampled labels change."""
    ours, theirs = powers_on(example, "cpu", "float32"), powers_on(example, "cuda", dtype)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        for a, b in zip(tensor.roles, theirs[name].roles, strict=True):
            if a is tensor.linear:
                np.testing.assert_allclose(b.in_power.sum(), a.in_power.sum(), rtol=near, err_msg=name)
            assert b.out_power.sum() * b.in_factor.sum() == pytest.approx(a.out_power.sum() * a.in_factor.sum(), rel=0.5), name
    totals = [
        sum(float(r.out_power.sum() * r.in_factor.sum()) for t in found.values() for r in t.roles) for found in (ours, theirs)
    ]
    assert totals[1] == pytest.approx(totals[0], rel=0.15)


def test_moments(example: Any) -> None:
    """They come to the CPU, where tensors are rounded; other sampled labels weight the tokens a little differently."""
    model, architecture, chunks = example
    found = []
    for device in ("cpu", "cuda"):
        loaded = load_torch_model(model, architecture, device, "float32")
        found.append(dict(tensor_moments(loaded, [NAME], architecture, chunks, 2**30, 0, Silent()))[NAME])
    ours, theirs = found
    assert all(values.device.type == "cpu" for values in (theirs.inputs, theirs.gradients, theirs.judged_x, theirs.judged_g))
    torch.testing.assert_close(theirs.judged_x, ours.judged_x, rtol=1e-3, atol=1e-4)
    assert float((theirs.inputs - ours.inputs).norm() / ours.inputs.norm()) < 0.3
    assert theirs.gradients.shape == ours.gradients.shape
    assert torch.isfinite(theirs.gradients).all()


def test_runs_of_every_effort(tmp_path: Path) -> None:
    """The whole command with device = auto: estimate, feedback, tuning and evaluation on the GPU."""
    plain = tmp_path / "plain"
    done = run(plain, *TARGET)
    assert done.code == 0, done.err
    text = ["--set", "export.options.gguf.n_ctx=256"]
    klds = {"fast": mean_kld(plain)}
    for effort in ("normal", "high"):
        out = Path(shutil.copytree(plain, tmp_path / effort))
        done = run(out, *TARGET, "--effort", effort, *text)
        assert done.code == 0, done.err
        assert ours(out).stat().st_size == ours(plain).stat().st_size
        klds[effort] = mean_kld(out)
        assert len(load_gains(next(out.glob("*.rounding.json")))) == n_quantized(out)
    assert klds["normal"] < 0.95 * klds["fast"]
    assert klds["high"] < 1.02 * klds["normal"]

"""The KL Hessian predicts what a small perturbation costs, its labels come from the model, and HF and GGUF agree on every weight."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitclass3_llama import bitclass3_architecture as llama_architecture
from bitclass3_qwen35 import bitclass3_architecture as qwen35_architecture
from bitclass3_torch.loss import sampled_label_loss
from bitclass3_torch.model import TorchModel, load_torch_model
from bitclass3_torch.statistics import collect
from bitclass3_torch.tokens import token_chunks
from bitclass3_torch_evaluator import Options, bitclass3_evaluate
from command import CALIBRATION, EVALUATION, EXAMPLE, GGUF, ROOT

from bitclass3_core.corpus import load_corpus
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import TensorSensitivity

pytestmark = pytest.mark.slow
LLAMA = ROOT / "tests" / "data" / "llama-tiny"


def load(folder: Path, gguf: Path, architecture_of: Callable[..., Architecture]) -> tuple[GgufModel, Architecture, TorchModel]:
    model = GgufModel(gguf, folder)
    architecture = architecture_of(model=model)
    return model, architecture, load_torch_model(model, architecture, "cpu", "float32")


@pytest.fixture(scope="module")
def example() -> tuple[GgufModel, Architecture, TorchModel]:
    return load(EXAMPLE, GGUF, qwen35_architecture)


@pytest.fixture(scope="module")
def chunks(example: Any) -> np.ndarray:
    documents = load_corpus([CALIBRATION], [EVALUATION]).calibration
    return token_chunks(example[2].tokenizer, documents, 12 * 512, 512, "calibration")[0]


@pytest.fixture(scope="module")
def collected(example: Any, chunks: np.ndarray) -> dict[str, TensorSensitivity]:
    """The KL Hessian's factors of every tensor of the example."""
    model, architecture, loaded = example
    return dict(collect(loaded, model, architecture, chunks, with_gradients=True, seed=0, progress=Silent()))


@pytest.fixture(scope="module")
def source_logits(example: Any, chunks: np.ndarray) -> list[torch.Tensor]:
    return logits_of(example[2], chunks)


def predicted_cost(sensitivity: TensorSensitivity, squared: np.ndarray) -> float:
    return sum(0.5 * float(powers.out_power @ squared @ powers.in_factor) for powers in sensitivity.roles)


@torch.inference_mode()
def logits_of(loaded: TorchModel, chunks: np.ndarray) -> list[torch.Tensor]:
    return [loaded.net(input_ids=torch.from_numpy(chunk)[None], use_cache=False).logits[0].double() for chunk in chunks]


def mean_kld(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    total = n = 0.0
    for p, q in zip(before, after, strict=True):
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
        n += len(p)
    return total / n


def predicted_and_measured(
    example: tuple[GgufModel, Architecture, TorchModel],
    powers: Mapping[str, TensorSensitivity],
    before: list[torch.Tensor],
    chunks: np.ndarray,
    names: list[str],
    size: float,
) -> tuple[float, float]:
    """KLD of adding noise of ``size`` times each row's RMS, as quantization does: by the KL Hessian, and measured."""
    model, architecture, loaded = example
    rng = np.random.default_rng(0)
    predicted = 0.0
    for name in names:
        values = model.read(name)
        rms = np.sqrt(np.square(values).mean(axis=1, keepdims=True))
        noise = (size * rms * rng.standard_normal(values.shape)).astype(np.float32)
        predicted += predicted_cost(powers[name], np.square(noise.astype(np.float64)))
        loaded.set_weight(name, values + noise, architecture)
    measured = mean_kld(before, logits_of(loaded, chunks))
    for name in names:
        loaded.set_weight(name, model.read(name), architecture)
    return predicted, measured


def test_prediction_agrees_with_measurement_on_the_whole_example(
    example: Any, chunks: np.ndarray, collected: Any, source_logits: Any
) -> None:
    names = sorted(example[1].quantizable)
    predicted, measured = predicted_and_measured(example, collected, source_logits, chunks, names, 0.01)
    assert 1e-5 < measured < 0.02
    assert predicted == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("role", ["token_embd", "output", "ffn_down", "attn_qkv"])
def test_prediction_agrees_role_by_role(example: Any, chunks: np.ndarray, collected: Any, source_logits: Any, role: str) -> None:
    names = [name for name in sorted(example[1].quantizable) if example[0].tensors[name].role == role]
    predicted, measured = predicted_and_measured(example, collected, source_logits, chunks, names, 0.02)
    assert predicted == pytest.approx(measured, rel=0.2)


def test_prediction_of_a_tied_embedding(chunks: np.ndarray) -> None:
    tied = load(LLAMA, LLAMA / "model-bf16.gguf", llama_architecture)
    ids = np.random.default_rng(1).integers(0, 264, (16, 128))
    powers = collect(tied[2], *tied[:2], ids, with_gradients=True, seed=0, progress=Silent())
    predicted, measured = predicted_and_measured(tied, powers, logits_of(tied[2], ids), ids, ["token_embd.weight"], 0.02)
    assert predicted == pytest.approx(measured, rel=0.2)


def test_labels_are_sampled_from_the_model() -> None:
    """Then the mean gradient is 0 at any logits; with labels from a text it is p minus the text's frequencies."""
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    logits = probabilities.log().repeat(40000, 1).requires_grad_(True)
    sampled_label_loss(logits, torch.Generator().manual_seed(0)).backward()
    assert logits.grad is not None
    assert logits.grad.mean(0).abs().max() < 0.01
    # E[g_i^2] = p_i (1 - p_i), the Fisher matrix's diagonal
    assert torch.allclose(logits.grad.square().mean(0), probabilities * (1 - probabilities), atol=0.01)


def test_head_out_power_is_the_fisher_diagonal(example: Any, chunks: np.ndarray) -> None:
    model, architecture, loaded = example
    powers = collect(loaded, model, architecture, chunks[:4], with_gradients=True, seed=3, progress=Silent())
    linear = powers["output.weight"].linear
    assert linear is not None
    assert linear.out_power is not None
    exact = np.mean([float((1 - logits.softmax(-1).square().sum(-1)).mean()) for logits in logits_of(loaded, chunks[:4])])
    assert float(linear.out_power.sum()) == pytest.approx(exact, rel=0.03)


def test_in_power_is_the_mean_square_of_the_input(example: Any, chunks: np.ndarray) -> None:
    model, architecture, loaded = example
    name = "blk.1.ssm_out.weight"  # its columns are permuted by the conversion
    seen: list[torch.Tensor] = []
    handle = loaded.places[name].module.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach()[0]))
    logits_of(loaded, chunks[:2])
    handle.remove()
    expected = torch.cat(seen).double().square().mean(0).numpy()[architecture.column_order[name]]
    powers = collect(loaded, model, architecture, chunks[:2], with_gradients=False, seed=0, progress=Silent())
    linear = powers[name].linear
    assert linear is not None
    assert linear.out_power is None
    np.testing.assert_allclose(linear.in_power, expected, rtol=1e-4)


def test_gguf_weights_put_into_the_hf_model_change_nothing(example: Any, chunks: np.ndarray) -> None:
    model, architecture, loaded = example
    before = {name: place.module.weight.clone() for name, place in loaded.places.items()}
    for name in before:
        loaded.set_weight(name, model.read(name), architecture)
    assert set(before) == architecture.quantizable
    assert all(torch.equal(before[name], place.module.weight) for name, place in loaded.places.items())


def test_a_model_does_not_diverge_from_itself(example: Any) -> None:
    model, architecture, _ = example
    corpus = load_corpus([CALIBRATION], [EVALUATION])
    (same,) = bitclass3_evaluate(model, [model], architecture, corpus, Options(n_tokens=2048), Silent())
    assert abs(same.mean_kld) < 1e-6
    assert same.same_top1 == 1.0
    assert same.ppl == pytest.approx(same.reference_ppl, rel=1e-6)
    assert same.n_tokens == 4 * 255


def test_evaluation_in_several_groups_gives_the_same_figures(example: Any) -> None:
    model, architecture, _ = example
    corpus = load_corpus([CALIBRATION], [EVALUATION])
    one, many = (
        bitclass3_evaluate(model, [model], architecture, corpus, Options(n_tokens=2048, logits_mib=mib), Silent())[0]
        for mib in (1024, 4)
    )
    assert one.ppl == pytest.approx(many.ppl, rel=1e-6)
    assert one.domains.keys() == many.domains.keys()


def test_factors_have_the_row_and_column_sums_of_the_diagonal(example: Any, chunks: np.ndarray) -> None:
    """E[G_ij^2] written out for every weight, G a chunk's gradient: its sums over rows and columns are those of the vectors' product."""
    model, architecture, loaded = example
    name = "blk.3.attn_v.weight"
    seen: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def watch(_module: Any, inputs: Any, output: torch.Tensor) -> None:
        gradients: list[torch.Tensor] = []
        output.register_hook(lambda gradient: gradients.append(gradient[0].double()))
        seen.append((inputs[0].detach()[0].double(), gradients))

    handle = loaded.places[name].module.register_forward_hook(watch)
    powers = collect(loaded, model, architecture, chunks[:2], True, 0, Silent())[name].linear
    handle.remove()
    diagonal = sum((g[0].T @ x).square() for x, g in seen) / chunks[:2].size
    product = np.outer(powers.out_power, powers.in_factor)
    np.testing.assert_allclose(product.sum(0), diagonal.sum(0).numpy(), rtol=1e-3)
    np.testing.assert_allclose(product.sum(1), diagonal.sum(1).numpy(), rtol=1e-3)
    assert powers.in_factor.mean() == pytest.approx(powers.in_power.mean(), rel=1e-4)


def test_zero_embedding_row_does_not_blow_up_the_costs(example: Any, chunks: np.ndarray) -> None:
    """The example's end-of-text row is zero: gradients there are a billion times larger, but nothing can be lost at it."""
    model, architecture, loaded = example
    with_zero = next(chunk for chunk in chunks if (chunk == 0).any())
    powers = collect(loaded, model, architecture, with_zero[None], with_gradients=True, seed=0, progress=Silent())
    largest = max(float(role.out_power.max()) for tensor in powers.values() for role in tensor.roles if role.out_power is not None)
    assert largest < 100
    lookup = powers["token_embd.weight"].lookup
    assert lookup is not None
    assert lookup.out_power is not None
    assert lookup.out_power[0] == 0
    assert float(lookup.out_power.sum()) == pytest.approx(1, rel=1e-3)

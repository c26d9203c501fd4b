"""Powers of stacked experts against a computation expert by expert that knows the model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bitclass3_torch.expert_powers import ENOUGH_TOKENS, frequencies, shrunk
from bitclass3_torch.loss import sampled_label_loss
from bitclass3_torch.model import TorchModel
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.products import Product, Products
from bitclass3_torch.statistics import collect
from transformers import GptOssConfig, GptOssForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from bitclass3_core.model import Architecture, Place
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Powers

COMMON = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
QWEN = {**COMMON, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 10, "norm_topk_prob": True}
OSS = {**COMMON, "num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 10, "layer_types": ["full_attention"]}


def filled(net: Any) -> Any:
    torch.manual_seed(0)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(False).normal_(std=0 if name.endswith("router.bias") else 0.3)
    net.model.embed_tokens.weight.normal_()
    return net.eval()


def qwen(experts: Any, e: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output of gate_up, input of down, output of down) of one expert."""
    gate_up = x @ experts.gate_up_proj[e].T
    gate_up.requires_grad_(True)
    gate, up = gate_up.chunk(2, dim=-1)
    down_in = torch.nn.functional.silu(gate) * up
    return gate_up, down_in, down_in @ experts.down_proj[e].T


def gpt_oss(experts: Any, e: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gate_up = x @ experts.gate_up_proj[e]
    gate_up.requires_grad_(True)
    down_in = experts._apply_gate(gate_up + experts.gate_up_proj_bias[e])
    return gate_up, down_in, down_in @ experts.down_proj[e] + experts.down_proj_bias[e]


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "qwen3moe": (lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**QWEN)), qwen),
    "gpt-oss": (lambda: GptOssForCausalLM(GptOssConfig(**OSS)), gpt_oss),
}


def loaded(net: Any) -> TorchModel:
    experts = net.model.layers[0].mlp.experts
    transposed = isinstance(net, GptOssForCausalLM)
    places = {
        name: TorchPlace(name, experts, getattr(experts, name), Place((name,), transposed=transposed))
        for name in ("gate_up_proj", "down_proj")
    }
    return TorchModel(net, None, torch.device("cpu"), places, None)


def collected(model: TorchModel, chunks: np.ndarray) -> dict[str, Powers]:
    answer = collect(model, SimpleNamespace(name="tiny"), Architecture("any", frozenset()), chunks, True, 0, Silent())  # type: ignore[arg-type]
    return {name: tensor.linear for name, tensor in answer.items() if tensor.linear is not None}


def routed(net: Any, chunks: np.ndarray) -> list[tuple[torch.Tensor, ...]]:
    """(input, expert, routing weight, gradient at the experts' output) of each chunk's tokens, labels sampled as ``collect`` does."""
    seen: list[Any] = []
    experts = net.model.layers[0].mlp.experts
    net.set_experts_implementation("eager")

    def on_forward(_module: Any, inputs: Any, output: torch.Tensor) -> None:
        chunk = [value.detach() for value in inputs]
        output.register_hook(lambda gradient: seen.append((*chunk, gradient)))

    handles = [experts.register_forward_hook(on_forward)]
    handles.append(net.get_input_embeddings().register_forward_hook(lambda _m, _i, output: output.requires_grad_(True)))
    generator = torch.Generator().manual_seed(0)
    for chunk in chunks:
        sampled_label_loss(net(input_ids=torch.from_numpy(chunk)[None]).logits[0], generator).backward()
    for handle in handles:
        handle.remove()
    return seen


def squares_by_expert(net: Any, one_expert: Callable[..., Any], chunks: np.ndarray) -> dict[str, list[Any]]:
    """Of both stacks, for each expert: (sum of x^2, tokens, row sums of the squared gradients of chunks, sum of |x|^2)."""
    experts = net.model.layers[0].mlp.experts
    n_experts = len(experts.down_proj)
    sums: dict[str, list[Any]] = {name: [[0.0, 0, 0.0, 0.0] for _ in range(n_experts)] for name in ("gate_up_proj", "down_proj")}
    for x, index, weight, gradient in routed(net, chunks):
        rows: dict[str, list[Any]] = {"gate_up_proj": [], "down_proj": []}
        for e in range(n_experts):
            token, slot = torch.where(index == e)
            gate_up, down_in, down = one_expert(experts, e, x[token])
            g_down = gradient[token] * weight[token, slot, None]
            (g_gate_up,) = torch.autograd.grad(down, gate_up, g_down)
            rows["gate_up_proj"].append((x[token], g_gate_up))
            rows["down_proj"].append((down_in.detach(), g_down))
        for name, found in rows.items():
            for sum_, (inputs, g) in zip(sums[name], found, strict=True):
                sum_[0] += inputs.square().sum(0).numpy()
                sum_[1] += len(inputs)
                sum_[2] += (g.T @ inputs).square().sum(1).numpy()
                sum_[3] += float(inputs.square().sum())
    return sums


def expected_powers(sums: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(in_power, out_power), both by expert, of experts that all have tokens; two of six see each token."""
    x, n, g, energy = (np.array([of_expert[i] for of_expert in sums], dtype=float) for i in range(4))
    trust = np.minimum(n / ENOUGH_TOKENS, 1)[:, None]
    share = 2 * (n + 1) / (n.sum() + 6)
    mean_x, mean_g = x.sum(0) / n.sum(), g.sum(0) / energy.sum()
    return trust * x / n[:, None] + (1 - trust) * mean_x, share[:, None] * (trust * g / energy[:, None] + (1 - trust) * mean_g)


@pytest.mark.parametrize("n_tokens", [480, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_powers_are_means_over_routed_tokens_times_the_share_of_tokens(family: str, n_tokens: int) -> None:
    make, one_expert = FAMILIES[family]
    net = filled(make())
    chunks = np.random.default_rng(0).integers(0, 61, (2, n_tokens // 2))
    sums = squares_by_expert(net, one_expert, chunks)
    counts = [n for _, n, _, _ in sums["down_proj"]]
    assert sum(counts) == 2 * n_tokens
    assert 0 < min(counts) < max(counts)
    for name, powers in collected(loaded(net), chunks).items():
        in_power, out_power = expected_powers(sums[name])
        assert powers.out_power is not None
        np.testing.assert_allclose(powers.in_power, in_power, rtol=2e-4)
        np.testing.assert_allclose(powers.out_power.reshape(6, -1), out_power, rtol=2e-4)


def test_expert_without_tokens_gets_the_mean_and_a_small_share() -> None:
    counts = np.array([300.0, 100.0, 0.0])
    sums = np.array([[300.0, 600.0], [300.0, 100.0], [0.0, 0.0]])
    assert shrunk(sums, counts, counts).tolist() == [[1, 2], [3, 1], [1.5, 1.75]]
    shares = frequencies(counts, 200)
    assert shares.sum() == pytest.approx(2)  # as often as tokens were routed
    assert shares[2] == pytest.approx(2 / 403)


def test_warning_about_experts_of_few_tokens() -> None:
    class Warned(Silent):
        lines: list[str] = []  # noqa: RUF012 (one test's)

        def warn(self, line: str) -> None:
            self.lines.append(line)

    model = loaded(filled(FAMILIES["qwen3moe"][0]()))
    chunks = np.random.default_rng(0).integers(0, 61, (1, 40))
    collect(model, SimpleNamespace(name="tiny"), Architecture("any", frozenset()), chunks, False, 0, Warned())  # type: ignore[arg-type]
    assert Warned.lines == [
        "fewer than 64 tokens reached 12 of 12 experts' matrices, which lean on their layer's mean;"
        " raise estimate.options.n_tokens to tell them apart"
    ]


def test_the_experts_implementation_is_put_back() -> None:
    net = filled(FAMILIES["qwen3moe"][0]())
    net.set_experts_implementation("batched_mm")
    collected(loaded(net), np.zeros((1, 8), np.int64))
    assert net.config._experts_implementation == "batched_mm"


STACK = torch.nn.Parameter(torch.randn(3, 4, 6), requires_grad=False)
MATRIX = torch.nn.Parameter(torch.randn(4, 6), requires_grad=False)
X6, X4 = torch.randn(5, 6), torch.randn(5, 4)
# What is multiplied, and which parameter, matrix and way round it is.
PRODUCTS: dict[str, tuple[Callable[[], Any], list[tuple[str, int, bool]]]] = {
    "linear": (lambda: torch.nn.functional.linear(X6, MATRIX), [("matrix", 0, True)]),
    "linear, weight by name": (lambda: torch.nn.functional.linear(X6, weight=MATRIX), [("matrix", 0, True)]),
    "expert by number in a tensor": (lambda: torch.nn.functional.linear(X6, STACK[torch.tensor(2)]), [("stack", 2, True)]),
    "@ expert": (lambda: X4 @ STACK[1], [("stack", 1, False)]),
    "@ transposed": (lambda: X6 @ STACK[1].T, [("stack", 1, True)]),
    "weight @ x": (lambda: MATRIX @ X6.T, [("matrix", 0, True)]),
    "mm": (lambda: torch.mm(X4, MATRIX), [("matrix", 0, False)]),
    "addmm": (lambda: torch.addmm(torch.zeros(6), X4, MATRIX), [("matrix", 0, False)]),
    "bmm of the stack": (lambda: torch.bmm(X4.expand(3, 5, 4), STACK), [("stack", e, False) for e in range(3)]),
    "a copy": (lambda: X4 @ MATRIX.clone(), []),
    "half a matrix": (lambda: X6 @ MATRIX[:2].T, []),
    "another matrix": (lambda: X6 @ torch.randn(6, 2), []),
}


@pytest.mark.parametrize("how", PRODUCTS)
def test_products_are_seen_however_they_are_written(how: str) -> None:
    multiply, expected = PRODUCTS[how]
    seen: list[Product] = []
    with Products({"matrix": MATRIX, "stack": STACK}, seen.append):
        multiply()
    assert [(product.key, product.matrix, product.inputs_last) for product in seen] == expected
    for product in seen:
        weight = {"matrix": MATRIX, "stack": STACK[product.matrix]}[product.key]
        own = product.inputs @ (weight.T if product.inputs_last else weight)
        torch.testing.assert_close(product.of_output(product.output), own)

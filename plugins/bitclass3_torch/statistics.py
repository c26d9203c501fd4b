"""in_power, out_power and in_fisher of every tensor, out of what the HF model multiplies.

Forward passes give in_power = E[x^2]; one backward pass with sampled labels (``loss.py``) gives the diagonal of the Fisher matrix.

The gradient of a weight matrix over a chunk of n tokens is G = sum_t g_t x_t^T. The diagonal of the Fisher matrix, per token, is
E[G_ij^2] / n: the labels of different positions are drawn independently, so what is squared together is the gradient of one position's
prediction with respect to an error at all positions before it. The two factors have that matrix's own row and column sums:

    out_power_i = sum_j E[G_ij^2] / sum_t |x_t|^2        in_fisher_j proportional to sum_i E[G_ij^2], with the sum of in_power

To square token by token, E[g_i^2 x_j^2], would leave out that an error adds up over positions, in attn_v most of all (docs/benchmarks.md,
"Refinements of the allocation", says how much, role by role). E[g_i^2] and E[x_j^2] alone would moreover take x and g for independent.
They are not: all tokens attend to the first one, whose attn_v gets most of the gradient and has other inputs than the rest; and at a token
whose embedding is zero x stays zero, while g grows by 1/sqrt(eps) in each RMSNorm.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Powers, TensorSensitivity
from bitclass3_torch.activations import RoundingCosts
from bitclass3_torch.dense_powers import TINY, DenseSums
from bitclass3_torch.embedding_powers import Embedding
from bitclass3_torch.expert_powers import ENOUGH_TOKENS, RoutedSums
from bitclass3_torch.loss import sampled_label_loss
from bitclass3_torch.model import EMBEDDING, TorchModel, in_gguf_order
from bitclass3_torch.places import AxisPowers, TorchPlace
from bitclass3_torch.products import Product, Products, eager_experts

ROUNDING_EVERY = 4  # chunks: one number for each tensor is known well after few, and it costs a product more


class Collector:
    """The sums over everything that a loaded model multiplies and looks up, chunk by chunk."""

    def __init__(self, loaded: TorchModel, with_gradients: bool) -> None:
        self._loaded = loaded
        self._with_gradients = with_gradients
        self._dense, self._routed = DenseSums(with_gradients), RoutedSums(with_gradients)
        self._rounding, self._n_chunks, self._looks_at_rounding = RoundingCosts(), 0, False
        self._gradient: torch.Tensor | None = None
        self._parameters = {place.key: place.parameter for place in loaded.places.values()}
        table = loaded.places.get(EMBEDDING)
        self._embedding = None if table is None else Embedding(table.parameter)
        module = loaded.net.get_input_embeddings() if table is None else table.module
        self._handle: Any = module.register_forward_hook(self._on_lookup)

    def _seen(self, product: Product) -> None:
        if self._looks_at_rounding and product.output.requires_grad:
            self._rounding.add(product)
        (self._routed if self._parameters[product.key].ndim == 3 else self._dense).add(product)

    def _on_lookup(self, _module: Any, _inputs: Any, output: Any) -> Any:
        if self._with_gradients:  # weights are frozen: the looked-up rows are where gradients begin
            output.requires_grad_(True)
            output.register_hook(self._keep_gradient)
        return output

    def _keep_gradient(self, gradient: torch.Tensor) -> None:
        self._gradient = gradient.detach()

    def run_chunk(self, ids: NDArray[np.int64], generator: torch.Generator) -> None:
        """Send one chunk [n_ctx] forward, and backward from a label that is sampled at every position."""
        self._gradient = None
        self._looks_at_rounding = self._with_gradients and self._n_chunks % ROUNDING_EVERY == 0
        if self._looks_at_rounding:
            self._rounding.begin_chunk(ids.size)
        self._n_chunks += 1
        with torch.set_grad_enabled(self._with_gradients):
            with Products(self._parameters, self._seen):
                logits = self._loaded.logits(ids)
            if self._with_gradients:
                sampled_label_loss(logits, generator).backward()  # type: ignore[no-untyped-call]
        if self._embedding is not None:
            self._embedding.add(ids, None if self._gradient is None else self._gradient[0])

    def close(self) -> None:
        """Remove the hook from the model."""
        self._handle.remove()

    def _linear(self, name: str, place: TorchPlace, n_tokens: int) -> Powers | None:
        if name == EMBEDDING and self._loaded.head is None:  # a product with that parameter is the GGUF's own output.weight's
            return None
        if place.parameter.ndim != 3:
            return self._dense.powers(place.key, place, n_tokens)
        axes = self._routed.powers(place.key, len(place.parameter), n_tokens)
        return None if axes is None else place.powers(axes)

    def _lookup(self, name: str, place: TorchPlace, n_tokens: int) -> Powers | None:
        if name != EMBEDDING or self._embedding is None:
            return None
        powers = self._embedding.powers(n_tokens)
        rows = None if powers.out_power is None else powers.out_power[None]
        return place.powers(AxisPowers(powers.in_power[None], rows))

    def few_tokens(self) -> str | None:
        """A warning about experts that too few tokens reached; None if there are none."""
        stacks = {place.key: len(place.parameter) for place in self._loaded.places.values() if place.parameter.ndim == 3}
        few = sum(self._routed.n_few(key, n_experts) for key, n_experts in stacks.items())
        if not few:
            return None
        return (
            f"fewer than {ENOUGH_TOKENS} tokens reached {few} of {sum(stacks.values())} experts' matrices, which lean on their"
            " layer's mean; raise estimate.options.n_tokens to tell them apart"
        )

    def tensors(self, n_tokens: int, architecture: Architecture) -> dict[str, TensorSensitivity]:
        """The means over ``n_tokens`` tokens, in the GGUF's order of rows and columns."""
        found = {}
        for name, place in self._loaded.places.items():
            linear, lookup = self._linear(name, place, n_tokens), self._lookup(name, place, n_tokens)
            if linear is not None or lookup is not None:
                found[name] = TensorSensitivity(
                    in_gguf_order(linear, name, architecture), in_gguf_order(lookup, name, architecture)
                )
        return {name: replace(tensor, activation=self._activation(name, found)) for name, tensor in found.items()}

    def _activation(self, name: str, found: Mapping[str, TensorSensitivity]) -> dict[str, float]:
        """What it costs to round the tensor's inputs, nats per token by format.

        Tensors that share a parameter share its cost, by their out_power.
        """
        key = self._loaded.places[name].key
        gradients = {
            other: float(linear.out_power.sum())
            for other, place in self._loaded.places.items()
            if place.key == key and other in found and (linear := found[other].linear) is not None and linear.out_power is not None
        }
        if name not in gradients:
            return {}
        share = gradients[name] / max(sum(gradients.values()), TINY)
        return {form: cost * share for form, cost in self._rounding.costs(key).items()}


def collect(
    loaded: TorchModel,
    model: Model,
    architecture: Architecture,
    chunks: NDArray[np.int64],
    with_gradients: bool,
    seed: int,
    progress: Progress,
) -> dict[str, TensorSensitivity]:
    """Powers of every tensor that torch can see, over ``chunks`` [n_chunks, n_ctx]; warns of experts that too few tokens reached."""
    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    collector = Collector(loaded, with_gradients)
    progress.begin(f"estimate {model.name}", len(chunks))
    try:
        with eager_experts(loaded.net):
            for chunk in chunks:
                collector.run_chunk(chunk, generator)
                progress.advance()
    finally:
        collector.close()
        progress.end()
    if (line := collector.few_tokens()) is not None:
        progress.warn(line)
    return collector.tensors(chunks.size, architecture)

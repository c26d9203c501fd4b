"""llama.cpp's rounding of activations: what it costs in each format, and the same rounding in torch.

On the CPU ggml rounds the inputs of a matrix product to 8 bits before it multiplies. For weights of a K or IQ type one scale serves 256
columns (Q8_K), for weights of a type with blocks of 32 it serves 32 (Q8_0; ggml-cpu, ``vec_dot_type``). A channel with massive activations
makes the steps of its whole block coarse. The KL divergence that follows is, to second order,

    1/2 E[(sum_j dL/dx_j e_j)^2],     e = round(x) - x,     L the loss with sampled labels

It is computed as that: nothing is taken to be independent.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bitclass3_core.model import Model
from bitclass3_core.qtypes import ACTIVATION_BLOCKS, activation_format, qtype
from bitclass3_torch.model import TorchModel
from bitclass3_torch.products import ChangedInputs, Product, eager_experts

_LEVELS = 127


def rounding_error(inputs: torch.Tensor, block: int) -> torch.Tensor | None:
    """The error round(x) - x of inputs [..., n_in] with one 8-bit scale for ``block`` columns.

    None if n_in is no multiple of ``block``.
    """
    n_in = inputs.shape[-1]
    if n_in % block:
        return None
    blocks = inputs.reshape(-1, block)
    steps = blocks.abs().amax(1, keepdim=True) / _LEVELS
    rounded = torch.where(steps > 0, (blocks / steps).round() * steps, blocks)
    return (rounded - blocks).reshape(inputs.shape)


class RoundingCosts:
    """Sums over tokens of (dL/dx . e)^2, by parameter and format."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = {}
        self._n_tokens = 0

    def begin_chunk(self, n_tokens: int) -> None:
        """Count the tokens of a chunk whose products are added next."""
        self._n_tokens += n_tokens

    def add(self, product: Product) -> None:
        """Add one product. Its cost is known when the gradient of its output is."""
        inputs, weights, key, of_output = product.inputs.detach().float(), product.weights, product.key, product.of_output

        def on_gradient(gradient: torch.Tensor) -> None:
            by_input = of_output(gradient).detach().float() @ weights.detach().float()
            for name, block in ACTIVATION_BLOCKS.items():
                error = rounding_error(inputs, block)
                if error is not None:
                    sums = self._sums.setdefault(key, {})
                    sums[name] = sums.get(name, 0.0) + float((by_input * error).sum(-1).square().sum())

        product.output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    def costs(self, key: str) -> dict[str, float]:
        """What it costs to round the inputs of the whole parameter, nats per token, by format."""
        return {name: 0.5 * total / max(self._n_tokens, 1) for name, total in self._sums.get(key, {}).items()}


@contextmanager
def rounded_products(loaded: TorchModel, candidate: Model, activations: str) -> Iterator[None]:
    """While open, the inputs of every product are rounded as llama.cpp rounds them for the types of ``candidate``.

    ``activations``: ``cpu`` takes the block that belongs to the type, ``gpu`` blocks of 32 for every type, ``none`` rounds nothing. Where
    the GGUF cuts a parameter into several tensors, the largest block counts.
    """
    blocks: dict[str, int] = {}
    for name, place in loaded.places.items():
        form = activation_format(qtype(candidate.tensors[name].dtype))
        if form is not None and activations != "none":
            block = ACTIVATION_BLOCKS[form if activations == "cpu" else "Q8_0"]
            blocks[place.key] = max(block, blocks.get(place.key, 0))
    if not blocks:
        yield
        return

    def change(key: str, inputs: torch.Tensor) -> torch.Tensor:
        error = rounding_error(inputs.float(), blocks[key]) if key in blocks else None
        return inputs if error is None else (inputs.float() + error).to(inputs.dtype)

    parameters = {place.key: place.parameter for place in loaded.places.values()}
    with eager_experts(loaded.net), ChangedInputs(parameters, change):
        yield

"""Second moments of the inputs of every product, E[w x x^T], as many at a time as the memory allows.

The weight w of a token is the squared gradient of the loss at the layer's output, |g|^2, labels sampled from the model: then
tr(D A D^T) is what the KL divergence sees of an error D. Without it a few tokens of massive activations, which the loss hardly depends on,
would have all others round for them. Sums over rows stand for single rows: one matrix serves a whole tensor.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.model import Architecture
from bitclass3_core.progress import Progress
from bitclass3_torch.loading import TorchModel
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.statistics import sampled_label_loss

if TYPE_CHECKING:
    import torch

    from bitclass3_torch.watching import Product

EMBEDDING = "token_embd.weight"
_LARGEST_WEIGHT = 30.0  # times the chunk's median: no single token decides


class _Sums:
    """Sums of w x x^T by parameter."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, product: "Product") -> None:
        """One product; it counts when its output's gradient is known."""
        if not product.output.requires_grad:
            return
        key, of_output = product.key, product.of_output
        inputs = product.inputs.detach().float().reshape(-1, product.inputs.shape[-1])

        def on_gradient(gradient: "torch.Tensor") -> None:
            weights = gradient_weights(of_output(gradient).float().reshape(len(inputs), -1))
            moment = (inputs * weights[:, None]).T @ inputs
            self.sums[key] = self.sums[key] + moment if key in self.sums else moment

        product.output.register_hook(on_gradient)  # type: ignore[no-untyped-call]


def gradient_weights(gradients: "torch.Tensor") -> "torch.Tensor":
    """|g|^2 of each token of [n, n_out] over the chunk's median, limited: [n]."""
    energy = gradients.square().sum(-1)
    median = energy.median()
    return (energy / median).clamp(max=_LARGEST_WEIGHT) if median > 0 else (energy > 0).float()


def has_plain_inputs(place: TorchPlace) -> bool:
    """Whether the tensor's columns are its parameter's inputs, one by one: then E[x x^T] of the product is the tensor's own."""
    cut = place.cut
    return place.parameter.ndim == 2 and cut.shape is None and not cut.transposed and cut.columns is None


def moment_groups(loaded: TorchModel, names: Sequence[str], memory_bytes: int) -> list[list[str]]:
    """The tensors in their order, cut so that the moments of each group fit into the memory (at least one tensor a group)."""
    groups: list[list[str]] = []
    used = 0
    for name in names:
        n_bytes = 4 * loaded.places[name].parameter.shape[-1] ** 2
        if not groups or used + n_bytes > memory_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += n_bytes
    return groups


def input_moments(
    loaded: TorchModel, names: Sequence[str], architecture: Architecture, chunks: NDArray[np.int64], seed: int, progress: Progress
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """(name, E[w x x^T] [n_in, n_in] in the GGUF's order of columns) of each tensor over ``chunks``, with the model's present weights."""
    import torch

    from bitclass3_torch.watching import Products

    parameters = {loaded.places[name].key: loaded.places[name].parameter for name in names}
    sums = _Sums()
    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    handle = loaded.net.get_input_embeddings().register_forward_hook(_begins_gradients)
    try:
        for chunk in chunks:
            with torch.enable_grad():
                with Products(parameters, sums.add):
                    tokens = torch.from_numpy(chunk)[None].to(loaded.device)
                    logits = loaded.net(input_ids=tokens, use_cache=False).logits[0]
                sampled_label_loss(logits, generator).backward()  # type: ignore[no-untyped-call]
            progress.advance()
    finally:
        handle.remove()
    for name in names:
        key = loaded.places[name].key
        if key not in sums.sums:
            continue
        moment = sums.sums[key] / chunks.size
        order = architecture.column_order.get(name)
        if order is not None:
            index = torch.from_numpy(order).to(moment.device)
            moment = moment[index][:, index]
        yield name, moment


def _begins_gradients(_module: Any, _inputs: Any, output: Any) -> Any:
    """Weights are frozen: the looked-up rows are where gradients begin."""
    return output.requires_grad_(True)

"""Block scales tuned to what the whole model predicts, after every weight has its code.

Rounding looks at one tensor at a time and to second order. The tuner sees what all errors together do to the predictions: with all tensors
quantized, it follows the gradient of the divergence from the source's predictions. It changes the half-precision factors of the blocks, one
for 256 weights or for 32, by Adam (Kingma and Ba 2015). Codes, types and size stay. EfficientQAT's second phase trains the steps of fixed
codes end to end in the same way (Chen et al. 2024); here each factor changes relative to what it was, so that one rate fits all tensors.

A few chunks are left out to judge by. If the divergence on them does not fall, the scales stay as they were.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from bitclass3_torch.model import EMBEDDING, TorchModel
from bitclass3_torch.moments import has_plain_inputs
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.predictions import Predictions, divergence, predictions
from numpy.typing import NDArray

from bitclass3_core.gguf.kernels import dequantize
from bitclass3_core.gguf.rounding_gains import TuningGain
from bitclass3_core.model import Architecture
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType
from bitclass3_gguf.codes import Bytes
from bitclass3_gguf.scales import has_scales, n_factors, parts, scaled

WARM_UP = 5  # steps until the rate is whole
N_JUDGED = 4  # chunks that are left out
BETAS = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The tensors' bytes, and the divergence on the chunks that were left out, before and after."""

    data: Mapping[str, Bytes]
    gain: TuningGain


class _Tensor:
    """One tensor: what its factors multiply, and the relative change of each factor [n_rows, n_blocks]."""

    def __init__(self, name: str, q: QType, data: Bytes, place: TorchPlace, device: torch.device) -> None:
        self.name, self.q, self.data, self.place = name, q, data, place
        self.parts = [torch.from_numpy(part).to(device, place.parameter.dtype) for part in parts(data, q)]
        n_rows, n_in = self.parts[0].shape
        self.changes = [torch.zeros(n_rows, n_in // q.block_size, device=device) for _ in range(n_factors(q))]

    def _blocks(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(len(values), -1, self.q.block_size)

    def weights(self) -> torch.Tensor:
        """The weights with the factors as they are now, [n_rows, n_in]."""
        total = sum(self._blocks(part) * (1 + change)[..., None] for part, change in zip(self.parts, self.changes, strict=True))
        return total.reshape(self.parts[0].shape)  # type: ignore[union-attr]

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Add the gradient of the changes that follows from the gradient of the weights [n_rows, n_in]."""
        for part, change in zip(self.parts, self.changes, strict=True):
            own = self._blocks(gradient * part).sum(-1)
            change.grad = own if change.grad is None else change.grad + own

    def bytes(self) -> Bytes:
        """The rows with the changed factors."""
        return scaled(self.data, self.q, [1 + change.cpu().numpy() for change in self.changes])


class _Tuner:
    """All tensors of a loaded model that can be tuned, with hooks that turn gradients of its parameters into gradients of their changes."""

    def __init__(self, loaded: TorchModel, architecture: Architecture, data: Mapping[str, Bytes], qtypes: Mapping[str, QType]):
        self._loaded, self._architecture = loaded, architecture
        self.tensors = [
            _Tensor(name, qtypes[name], data[name], loaded.places[name], loaded.device)
            for name in data
            if _is_tunable(name, qtypes[name], loaded)
        ]
        self._by_key: dict[str, list[_Tensor]] = {}
        for tensor in self.tensors:
            self._by_key.setdefault(tensor.place.key, []).append(tensor)
        for own in self._by_key.values():
            own[0].place.parameter.requires_grad_(True)
        self._handles = [
            own[0].place.parameter.register_post_accumulate_grad_hook(self._taking(own)) for own in self._by_key.values()
        ]

    def _taking(self, own: list[_Tensor]) -> Callable[[torch.Tensor], None]:
        """A hook that hands a parameter's gradient on and frees it, so that the gradients of two large ones are never in memory."""

        def on_gradient(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                for tensor in own:
                    tensor.add_gradient(self._in_gguf_order(parameter.grad, tensor))
            parameter.grad = None

        return on_gradient

    def _in_gguf_order(self, gradient: torch.Tensor, tensor: _Tensor) -> torch.Tensor:
        taken = tensor.place.output_rows(gradient.float().T).T
        if (rows := self._architecture.row_order.get(tensor.name)) is not None:
            taken = taken[rows]
        if (columns := self._architecture.column_order.get(tensor.name)) is not None:
            taken = taken[:, columns]
        return taken

    def put(self) -> None:
        """Put the weights into the model."""
        for tensor in self.tensors:
            self._loaded.set_weight(tensor.name, tensor.weights(), self._architecture)

    def close(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        for own in self._by_key.values():
            own[0].place.parameter.requires_grad_(False)


def _is_tunable(name: str, q: QType, loaded: TorchModel) -> bool:
    """Whether the tensor is a matrix, no stack, whose type has factors and whose parameter has the GGUF's columns.

    An embedding table is tuned only if the head is tied to it: a text looks up too few of its rows.
    """
    if name not in loaded.places or not has_scales(q) or (name == EMBEDDING and loaded.head is None):
        return False
    return loaded.places[name].parameter.ndim == 2 and has_plain_inputs(loaded.places[name])


def tune_scales(
    loaded: TorchModel,
    architecture: Architecture,
    data: Mapping[str, Bytes],
    qtypes: Mapping[str, QType],
    chunks: NDArray[np.int64],
    n_steps: int,
    rate: float,
    progress: Progress,
) -> Tuned:
    """The tensors with tuned scales, and what that gained.

    ``loaded`` has the source's weights when this begins. ``chunks`` [n_chunks, n_ctx] are at least two; the first are left out to judge by.
    """
    n_judged = max(1, min(N_JUDGED, len(chunks) // 4))
    progress.begin("tune scales", len(chunks) + n_steps)
    source: list[Predictions] = []
    for chunk in chunks:
        source.append(predictions(loaded, chunk))
        progress.advance()
    for name in data:
        if name in loaded.places:
            loaded.set_weight(name, dequantize(data[name], qtypes[name]), architecture)

    def judged() -> float:
        with torch.no_grad():
            own = [divergence(loaded.logits(chunks[i]), source[i]) for i in range(n_judged)]
        return float(torch.cat(own).mean())

    before = judged()
    tuner = _Tuner(loaded, architecture, data, qtypes)
    if not tuner.tensors:
        progress.end()
        return Tuned(data, TuningGain(before, before))
    optimizer = torch.optim.Adam([change for tensor in tuner.tensors for change in tensor.changes], lr=rate, betas=BETAS, eps=1e-12)
    try:
        for step in range(n_steps):
            chosen = n_judged + step % (len(chunks) - n_judged)
            divergence(loaded.logits(chunks[chosen]), source[chosen]).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
            optimizer.step()
            optimizer.zero_grad()
            tuner.put()
            progress.advance()
    finally:
        tuner.close()
    tuned = {tensor.name: tensor.bytes() for tensor in tuner.tensors}
    for name, changed in tuned.items():
        loaded.set_weight(name, dequantize(changed, qtypes[name]), architecture)
    after = judged()
    progress.end()
    gain = TuningGain(before, after if math.isfinite(after) else before)
    return Tuned({**data, **tuned} if gain.is_kept else data, gain)

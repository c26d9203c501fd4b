"""Second moments of the inputs of every product, E[x x^T], as many at a time as the memory allows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.model import Architecture
from bitclass3_core.progress import Progress
from bitclass3_torch.loading import TorchModel
from bitclass3_torch.places import TorchPlace

if TYPE_CHECKING:
    import torch

    from bitclass3_torch.watching import Product

EMBEDDING = "token_embd.weight"


class _Sums:
    """Sums of x x^T by parameter; parameters that multiply one and the same tensor (q, k, v) share a sum."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.leader: dict[str, str] = {}  # of each parameter: whose sum holds for it
        self._last: tuple[str, torch.Tensor] | None = None  # kept alive, so that no other tensor gets its place in memory

    def add(self, product: "Product") -> None:
        inputs = product.inputs.detach()
        if self._last is not None and _is_same(self._last[1], inputs):
            self.leader.setdefault(product.key, self._last[0])
        if (leader := self.leader.setdefault(product.key, product.key)) != product.key:
            return
        self._last = (product.key, inputs)
        rows = inputs.float().reshape(-1, inputs.shape[-1])
        moment = rows.T @ rows
        self.sums[leader] = self.sums[leader] + moment if leader in self.sums else moment


def _is_same(a: "torch.Tensor", b: "torch.Tensor") -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


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
    loaded: TorchModel, names: Sequence[str], architecture: Architecture, chunks: NDArray[np.int64], progress: Progress
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """(name, E[x x^T] [n_in, n_in] in the GGUF's order of columns) of each tensor over ``chunks``, with the model's present weights."""
    from bitclass3_torch.watching import Products

    parameters = {loaded.places[name].key: loaded.places[name].parameter for name in names}
    sums = _Sums()
    import torch

    with torch.no_grad(), Products(parameters, sums.add):
        for chunk in chunks:
            loaded.net(input_ids=torch.from_numpy(chunk)[None].to(loaded.device), use_cache=False, **_no_logits(parameters, loaded))
            progress.advance()
    for name in names:
        key = loaded.places[name].key
        if key not in sums.leader:
            continue
        moment = sums.sums[sums.leader[key]] / chunks.size
        order = architecture.column_order.get(name)
        if order is not None:
            index = torch.from_numpy(order).to(moment.device)
            moment = moment[index][:, index]
        yield name, moment


def _no_logits(parameters: Mapping[str, Any], loaded: TorchModel) -> dict[str, int]:
    """The head's product is left out but for the last token, unless it is watched: it is a large part of a small model's work."""
    import inspect

    head = loaded.net.get_output_embeddings()
    watched = head is not None and any(parameter is head.weight for parameter in parameters.values())
    takes = "logits_to_keep" in inspect.signature(loaded.net.forward).parameters
    return {"logits_to_keep": 1} if takes and not watched else {}

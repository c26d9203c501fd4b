"""Second moments of a tensor's inputs and of its outputs' gradients: the Kronecker factors of its Hessian.

    F ~= G (x) A,    A = E[w x x^T]  [n_in, n_in],    G = E[u g g^T]  [n_rows, n_rows],    E[(g^T D x)^2] ~= tr(G D A D^T)

g is the gradient of the loss with sampled labels (``loss.py``). w and u weight the tokens, each with two halves. One half is exact: |g|^2 in
A and |x|^2 in G, as in E[|g|^2 x x^T]. It counts the first token, to whose attn_v all others attend: that must be right above all. The
other half is there because, with few tokens, the exact weights rest on a handful of massive ones. In A it is the same for every token whose
|x|^2 is at most the median, and falls as 1/|x|^2 above it; in G likewise with |g|^2.

Each expert of a stack has an A of its own, over the tokens that were routed to it. With few of them it leans on the mean of its layer.

The moments of many tensors need more memory than there is: ``moment_groups`` parts the tensors, ``tensor_moments`` takes one group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bitclass3_core.model import Architecture
from bitclass3_core.progress import Progress
from bitclass3_torch.expert_powers import ENOUGH_TOKENS
from bitclass3_torch.loss import sampled_label_loss
from bitclass3_torch.model import EMBEDDING, TorchModel
from bitclass3_torch.moment_sums import MatrixSums, MomentSums, n_matrices
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.products import Products, eager_experts

JUDGE_SHARE = 8  # one chunk in so many is left out of the moments, to judge by
MAX_JUDGED = 2  # chunks


@dataclass(frozen=True, slots=True)
class TensorMoments:
    """The moments of one GGUF tensor, in the GGUF's order of rows and columns.

    ``inputs`` is A [n_in, n_in], of a stack [n_experts, n_in, n_in]. ``gradients`` is G [n_rows, n_rows]; None for a stack, for a table
    that tokens look up, and where there are too many rows. ``judged_x`` [n, n_in] and ``judged_g`` [n, n_rows] are inputs and gradients of
    tokens that are in neither moment; None where G is, or if no chunk was left out.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor | None = None
    judged_x: torch.Tensor | None = None
    judged_g: torch.Tensor | None = None

    def on_cpu(self) -> "TensorMoments":
        """The same moments in the CPU's memory."""
        g, x, judged_g = (None if v is None else v.cpu() for v in (self.gradients, self.judged_x, self.judged_g))
        return TensorMoments(self.inputs.cpu(), g, x, judged_g)


def has_plain_inputs(place: TorchPlace) -> bool:
    """Whether each column of the tensor is one input of its parameter. Then the product's A is the tensor's own."""
    cut = place.cut
    return cut.shape is None and not cut.transposed and cut.columns is None


def moment_groups(loaded: TorchModel, names: Sequence[str], memory_bytes: int, n_ctx: int) -> list[list[str]]:
    """The tensors in their order, parted into groups whose moments fit into ``memory_bytes``; a group has at least one tensor."""
    groups: list[list[str]] = []
    used = 0
    for name in names:
        n_rows, n_in = loaded.places[name].parameter.shape[-2:]
        n_stack = n_matrices(loaded.places[name])
        few_rows = n_rows <= max_rows(memory_bytes) and n_stack == 1
        n_bytes = 4 * (n_stack * n_in**2 + (n_rows**2 + MAX_JUDGED * n_ctx * (n_in + n_rows) if few_rows else 0))
        if not groups or used + n_bytes > memory_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += n_bytes
    return groups


def max_rows(memory_bytes: int) -> int:
    """The most rows that a tensor with a G may have: so many that G takes an eighth of the memory."""
    return int((memory_bytes / 32) ** 0.5)


def tensor_moments(
    loaded: TorchModel,
    names: Sequence[str],
    architecture: Architecture,
    chunks: NDArray[np.int64],
    memory_bytes: int,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[str, TensorMoments]]:
    """The moments of each named tensor over ``chunks`` [n_chunks, n_ctx], with the model's present weights.

    Each chunk goes forward and backward once, for all tensors. The passes are over when this returns. The iterator puts one tensor after
    the other into the GGUF's order and into the CPU's memory; a tensor that no product used is left out.
    """
    sums = MomentSums(loaded, names, max_rows(memory_bytes))
    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    n_judged = min(MAX_JUDGED, len(chunks) // JUDGE_SHARE)
    handle = loaded.net.get_input_embeddings().register_forward_hook(lambda _m, _i, rows: _begin(rows, sums, EMBEDDING in names))
    try:
        with eager_experts(loaded.net):
            for number, chunk in enumerate(chunks):
                sums.judging = number >= len(chunks) - n_judged
                with Products(sums.parameters, sums.product):
                    logits = loaded.logits(chunk)
                sampled_label_loss(logits, generator).backward()  # type: ignore[no-untyped-call]
                progress.advance()
    finally:
        handle.remove()
    found = ((name, _moments_of(name, sums, loaded, architecture)) for name in names)
    return ((name, moments.on_cpu()) for name, moments in found if moments is not None)


def _begin(rows: torch.Tensor, sums: MomentSums, is_wanted: bool) -> torch.Tensor:
    """Let gradients begin at the looked-up rows, because all weights are frozen; where the table's are wanted, they are added."""
    rows.requires_grad_(True)
    if is_wanted:
        rows.register_hook(lambda gradient: sums.lookup(rows, gradient))  # type: ignore[no-untyped-call]
    return rows


def _moments_of(name: str, all_sums: MomentSums, loaded: TorchModel, architecture: Architecture) -> TensorMoments | None:
    place = loaded.places[name]
    columns, rows = architecture.column_order.get(name), architecture.row_order.get(name)
    if place.parameter.ndim == 3:
        stack = _stack_moments([all_sums.sums[place.key, matrix] for matrix in range(n_matrices(place))])
        return None if stack is None else TensorMoments(stack if columns is None else stack[:, columns][:, :, columns])
    sums = all_sums.sums.get((place.key, 0)) if name != EMBEDDING or loaded.head is not None else None
    if name == EMBEDDING:
        return _table_moments(sums, all_sums.lookups, len(place.parameter))
    if sums is None or (a := sums.inputs.mean(sums.n_tokens)) is None:
        return None
    if columns is not None:
        a = a[columns][:, columns]
    if (g := sums.gradients.mean(sums.n_tokens)) is None:
        return TensorMoments(a)
    g = place.output_rows(place.output_rows(g).T)
    judged_x, judged_g = None, None
    if sums.judged:
        x, of_outputs = (torch.cat(values) for values in zip(*sums.judged, strict=True))
        judged_x, judged_g = _reordered(x, columns), _reordered(place.output_rows(of_outputs), rows)
    return TensorMoments(a, g if rows is None else g[rows][:, rows], judged_x, judged_g)


def _stack_moments(experts: Sequence[MatrixSums]) -> torch.Tensor | None:
    """A of each expert [n_experts, n_in, n_in], as if ``ENOUGH_TOKENS`` more tokens with the layer's mean had reached it."""
    n_tokens = sum(sums.n_tokens for sums in experts)
    own = [sums.inputs.mean(1) for sums in experts]
    known = [total for total in own if total is not None]
    if not known:
        return None
    mean = torch.stack(known).sum(0) / n_tokens
    return torch.stack(
        [
            mean if total is None else (total + ENOUGH_TOKENS * mean) / (sums.n_tokens + ENOUGH_TOKENS)
            for total, sums in zip(own, experts, strict=True)
        ]
    )


def _reordered(values: torch.Tensor, order: NDArray[np.int64] | None) -> torch.Tensor:
    return values if order is None else values[:, order]


def _table_moments(product: MatrixSums | None, lookups: MatrixSums, n_rows: int) -> TensorMoments | None:
    """The moments of an embedding table.

    An error in a row that a token looks up goes into the model as it is, so A is E[g g^T] of the row's gradient. Where the head is tied,
    the same rows are multiplied too, and both errors add up.
    """
    if (total := lookups.inputs.mean(lookups.n_tokens)) is None:
        return None
    if product is not None and (of_head := product.inputs.mean(product.n_tokens)) is not None:
        total = total + of_head  # the gradients of all rows of the head have about the energy 1
    return TensorMoments(total / n_rows)

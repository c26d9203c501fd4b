"""Second moments of a tensor's inputs and of its outputs' gradients: the Kronecker factors of its Hessian, as many at a time as fit.

    F ~= G (x) A,    A = E[w x x^T]  [n_in, n_in],    G = E[u g g^T]  [n_rows, n_rows],    E[(g^T D x)^2] ~= tr(G D A D^T)

g is the gradient of the loss with sampled labels (``statistics.py``). One half of a token's weight w in A is |g|^2, one half of its weight
u in G is |x|^2, as in the exact E[|g|^2 x x^T]: the first token's attn_v, to which all others attend, must be right above all. The other
halves are the same for all but massive tokens: with few tokens the exact weights alone rest on a handful of them.

Of a stack of experts each has its own A, of the tokens that were routed to it; with few of them it leans on the mean of its layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.model import Architecture
from bitclass3_core.progress import Progress
from bitclass3_torch.experts import ENOUGH_TOKENS
from bitclass3_torch.loading import TorchModel
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.statistics import EMBEDDING, sampled_label_loss
from bitclass3_torch.sums import Gram, energies, limited

if TYPE_CHECKING:
    import torch

    from bitclass3_torch.watching import Product

JUDGE_SHARE = 8  # one chunk in so many is left out of the moments, to judge by
MAX_JUDGED = 2  # chunks


@dataclass(frozen=True, slots=True)
class TensorMoments:
    """Of one GGUF tensor, in its order of rows and columns: ``inputs`` A [n_in, n_in], or [n_experts, n_in, n_in] of a stack;
    ``gradients`` G [n_rows, n_rows] unless there are too many rows; and of tokens that are in neither, x [n, n_in] and g [n, n_rows]
    (none for a table that tokens look up, no G either for a stack)."""

    inputs: "torch.Tensor"
    gradients: "torch.Tensor | None" = None
    judged_x: "torch.Tensor | None" = None
    judged_g: "torch.Tensor | None" = None

    def on_cpu(self) -> "TensorMoments":
        """The same in the CPU's memory."""
        g, x, judged_g = (None if v is None else v.cpu() for v in (self.gradients, self.judged_x, self.judged_g))
        return TensorMoments(self.inputs.cpu(), g, x, judged_g)


@dataclass(slots=True)
class _Sums:
    inputs: Gram = field(default_factory=Gram)
    gradients: Gram = field(default_factory=Gram)
    n_tokens: int = 0
    judged: list[tuple["torch.Tensor", "torch.Tensor"]] = field(default_factory=list)


class _Watch:
    """The sums of some parameters while chunks go through the model forward and backward."""

    def __init__(self, loaded: TorchModel, names: Sequence[str], n_rows_max: int) -> None:
        places = [loaded.places[name] for name in names if name != EMBEDDING or loaded.head is not None]
        self.sums = {(place.key, matrix): _Sums() for place in places for matrix in range(_n_matrices(place))}
        self.parameters = {loaded.places[name].key: loaded.places[name].parameter for name in names}
        self.lookups = _Sums()
        self.judging = False
        self._n_rows_max = n_rows_max

    def product(self, product: "Product") -> None:
        """One product; added when its output's gradient is known."""
        sums = self.sums.get((product.key, product.matrix))
        if sums is None or not product.output.requires_grad:
            return
        x, of_output = product.inputs.detach(), product.of_output

        def on_gradient(gradient: "torch.Tensor") -> None:
            self._add(sums, _flat(x), _flat(of_output(gradient)), is_stacked)

        is_stacked = self.parameters[product.key].ndim == 3
        product.output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    def _add(self, sums: _Sums, x: "torch.Tensor", g: "torch.Tensor", is_stacked: bool) -> None:
        few_rows = g.shape[1] <= self._n_rows_max and not is_stacked
        if self.judging:
            if few_rows:
                sums.judged.append((x, g))
            return
        if not len(x):
            return  # an expert that no token reached
        x_energy, g_energy = energies(x), energies(g)
        sums.inputs.add(x, _token_weights(x_energy, g_energy))
        if few_rows:
            sums.gradients.add(g, _token_weights(g_energy, x_energy))
        sums.n_tokens += len(x)

    def lookup(self, rows: "torch.Tensor", gradient: "torch.Tensor") -> None:
        """The looked-up rows [n, n_embd] of one chunk and their gradients; rows that are zero in every type say nothing."""
        if not self.judging:
            g = _flat(gradient)[(_flat(rows) != 0).any(1)]
            self.lookups.inputs.add(g)
            self.lookups.n_tokens += rows.shape[0] * rows.shape[1]


def _flat(values: "torch.Tensor") -> "torch.Tensor":
    return values.detach().float().reshape(-1, values.shape[-1])


def _token_weights(own: "torch.Tensor", other: "torch.Tensor") -> "torch.Tensor":
    """Half the other side's energy, half one and the same but for massive tokens; both halves with the mean 1 by own energy."""
    even = limited(own, own.median()) / own.clamp(min=1e-30)
    halves = (weights * (own.sum() / (weights * own).sum().clamp(min=1e-30)) for weights in (other, even))
    return sum(halves) / 2  # type: ignore[return-value]


def has_plain_inputs(place: TorchPlace) -> bool:
    """Whether the tensor's columns are its parameter's inputs, one by one: then A of the product is the tensor's own."""
    cut = place.cut
    return cut.shape is None and not cut.transposed and cut.columns is None


def _n_matrices(place: TorchPlace) -> int:
    return len(place.parameter) if place.parameter.ndim == 3 else 1


def moment_groups(loaded: TorchModel, names: Sequence[str], memory_bytes: int, n_ctx: int) -> list[list[str]]:
    """The tensors in their order, cut so that what is kept of each group fits into the memory (at least one tensor a group)."""
    groups: list[list[str]] = []
    used = 0
    for name in names:
        n_rows, n_in = loaded.places[name].parameter.shape[-2:]
        n_matrices = _n_matrices(loaded.places[name])
        few_rows = n_rows <= max_rows(memory_bytes) and n_matrices == 1
        n_bytes = 4 * (n_matrices * n_in**2 + (n_rows**2 + MAX_JUDGED * n_ctx * (n_in + n_rows) if few_rows else 0))
        if not groups or used + n_bytes > memory_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += n_bytes
    return groups


def max_rows(memory_bytes: int) -> int:
    """Tensors with more rows than this do without G: it would take an eighth of the memory."""
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
    """The moments of each tensor over ``chunks``, with the model's present weights: one pass forward and backward for all of them.

    The passes are over when this returns; what it gives is put into the GGUF's order, and into the CPU's memory, one tensor
    after the other.
    """
    import torch

    from bitclass3_torch.watching import Products, eager_experts

    watch = _Watch(loaded, names, max_rows(memory_bytes))
    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    n_judged = min(MAX_JUDGED, len(chunks) // JUDGE_SHARE)
    handle = loaded.net.get_input_embeddings().register_forward_hook(lambda _m, _i, rows: _begin(rows, watch, EMBEDDING in names))
    try:
        with eager_experts(loaded.net):
            for number, chunk in enumerate(chunks):
                watch.judging = number >= len(chunks) - n_judged
                with Products(watch.parameters, watch.product):
                    logits = loaded.net(input_ids=torch.from_numpy(chunk)[None].to(loaded.device), use_cache=False).logits[0]
                sampled_label_loss(logits, generator).backward()  # type: ignore[no-untyped-call]
                progress.advance()
    finally:
        handle.remove()
    found = ((name, _moments_of(name, watch, loaded, architecture)) for name in names)
    return ((name, moments.on_cpu()) for name, moments in found if moments is not None)


def _begin(rows: "torch.Tensor", watch: _Watch, is_wanted: bool) -> "torch.Tensor":
    """Weights are frozen: the looked-up rows are where gradients begin."""
    rows.requires_grad_(True)
    if is_wanted:
        rows.register_hook(lambda gradient: watch.lookup(rows, gradient))  # type: ignore[no-untyped-call]
    return rows


def _moments_of(name: str, watch: _Watch, loaded: TorchModel, architecture: Architecture) -> TensorMoments | None:
    place = loaded.places[name]
    columns, rows = architecture.column_order.get(name), architecture.row_order.get(name)
    if place.parameter.ndim == 3:
        stack = _stack_moments([watch.sums[place.key, matrix] for matrix in range(_n_matrices(place))])
        return None if stack is None else TensorMoments(stack if columns is None else stack[:, columns][:, :, columns])
    sums = watch.sums.get((place.key, 0)) if name != EMBEDDING or loaded.head is not None else None
    if name == EMBEDDING:
        return _table_moments(sums, watch.lookups, len(place.parameter))
    if sums is None or (a := sums.inputs.mean(sums.n_tokens)) is None:
        return None
    if columns is not None:
        a = a[columns][:, columns]
    if (g := sums.gradients.mean(sums.n_tokens)) is None:
        return TensorMoments(a)
    g = place.output_rows(place.output_rows(g).T)
    judged_x, judged_g = None, None
    if sums.judged:
        judged_x = _reordered(_joined(sums.judged, 0), columns)
        judged_g = _reordered(place.output_rows(_joined(sums.judged, 1)), rows)
    return TensorMoments(a, g if rows is None else g[rows][:, rows], judged_x, judged_g)


def _stack_moments(experts: Sequence[_Sums]) -> "torch.Tensor | None":
    """A of each expert [n_experts, n_in, n_in]: as if ``ENOUGH_TOKENS`` more with the layer's mean had reached it."""
    import torch

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


def _joined(pairs: Sequence[tuple["torch.Tensor", "torch.Tensor"]], which: int) -> "torch.Tensor":
    import torch

    return torch.cat([pair[which] for pair in pairs])


def _reordered(values: "torch.Tensor", order: NDArray[np.int64] | None) -> "torch.Tensor":
    return values if order is None else values[:, order]


def _table_moments(product: _Sums | None, lookups: _Sums, n_rows: int) -> TensorMoments | None:
    """Of an embedding table: an error in a row that a token looks up goes into the model as it is, so what counts is its gradient's
    E[g g^T]. Where the head is tied the same rows are a product's too, and both errors add up."""
    if (total := lookups.inputs.mean(lookups.n_tokens)) is None:
        return None
    if product is not None and (of_head := product.inputs.mean(product.n_tokens)) is not None:
        total = total + of_head  # the gradients of all rows of the head have about the energy 1
    return TensorMoments(total / n_rows)

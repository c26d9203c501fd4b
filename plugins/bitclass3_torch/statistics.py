"""in_power and out_power by hooks in the HF model: forward for E[x^2], one backward pass with sampled labels for E[g^2].

The mean of g^2 leaves out tokens whose input is zero, and counts those of little input less: the weight of token t is |x_t|^2 over the
chunk's median, at most 1. The diagonal of the Fisher matrix is E[g_i^2 x_j^2], and the product of two means misses what happens where x
vanishes: at a token whose embedding is zero (a padding row) x stays zero through the first layers, while the gradient through each
RMSNorm grows by 1/sqrt(eps). Weights without a limit would let the few tokens of massive activations speak for all others.

The loss is the sum over positions of the cross-entropy to labels sampled from the model's own distribution: then E[grad grad^T] is the
Fisher matrix, the Hessian of the KL divergence. Labels from the text would give the "empirical" Fisher, which is another matrix
(Kunstner et al. 2019, "Limitations of the empirical Fisher approximation").
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.model import Architecture, FloatArray, Model
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Powers, TensorSensitivity
from bitclass3_torch.loading import TorchModel, vector_to_gguf_order

if TYPE_CHECKING:
    import torch

EMBEDDING = "token_embd.weight"
Array64 = NDArray[np.float64]


class _Sums:
    """Running sums of squares over tokens, float64 on the CPU, one vector a key."""

    def __init__(self) -> None:
        self.values: dict[str, Array64] = {}

    def add(self, key: str, tensor: "torch.Tensor", weights: "torch.Tensor | None" = None) -> None:
        """Add the squares of [..., n], summed over all but the last dimension, each token [...] with its weight."""
        squares = tensor.detach().float().reshape(-1, tensor.shape[-1]).square()
        if weights is not None:
            squares = squares * weights.reshape(-1, 1)
        summed = squares.sum(0).cpu().numpy().astype(np.float64)
        self.values[key] = self.values[key] + summed if key in self.values else summed


class _Embedding:
    """What reaches the looked-up rows: how often each token occurs, and the squared gradient that it gets.

    Rows that are exactly zero (padding) stay zero in every type, so they count for nothing.
    """

    def __init__(self, table: "torch.Tensor") -> None:
        n_vocab, self.n_in = table.shape
        self.used = (table.detach() != 0).any(1).cpu().numpy()
        self.counts = np.zeros(n_vocab)
        self.row_power = np.zeros(n_vocab)
        self.column_power = np.zeros(self.n_in)
        self.has_gradients = False

    def add(self, ids: NDArray[np.int64], gradient: "torch.Tensor | None") -> None:
        """Add one chunk: ids [n], gradient [n, n_embd]."""
        mine = self.used[ids]
        np.add.at(self.counts, ids[mine], 1)
        if gradient is not None:
            squares = gradient.float().cpu().numpy()[mine].astype(np.float64) ** 2
            np.add.at(self.row_power, ids[mine], squares.sum(-1))
            self.column_power += squares.sum(0)
            self.has_gradients = True

    def powers(self, n_tokens: int) -> Powers:
        """Two vectors whose product is f_r E[g_rj^2 | token r], rows smoothed as if each token had been seen once more.

        ``out_power`` sums to 1 over the vocabulary; without gradients it is the smoothed frequency and columns count alike.
        """
        n_seen, n_used = self.counts.sum(), self.used.sum()
        if not self.has_gradients:
            return Powers(np.ones(self.n_in, np.float32), (self.used * (self.counts + 1) / (n_seen + n_used)).astype(np.float32))
        mean = max(self.row_power.sum() / max(n_seen, 1), np.finfo(np.float32).tiny)
        rows = self.used * (self.row_power + mean) / ((n_seen + n_used) * mean)
        return Powers((self.column_power / n_tokens).astype(np.float32), rows.astype(np.float32))


class Collector:
    """Hooks on every linear of a loaded model, and the sums that they fill."""

    def __init__(self, loaded: TorchModel, with_gradients: bool) -> None:
        self._loaded = loaded
        self._with_gradients = with_gradients
        self._inputs, self._outputs = _Sums(), _Sums()
        self._weights: dict[str, float] = {}
        self._embedding: _Embedding | None = None
        self._gradient: torch.Tensor | None = None
        self._handles: list[Any] = []
        for name, module in loaded.modules.items():
            if name == EMBEDDING:
                self._embedding = _Embedding(module.weight)
                self._handles.append(module.register_forward_hook(self._on_lookup))
            else:
                self._hook_linear(name, module)
        if loaded.head is not None:
            self._hook_linear(EMBEDDING, loaded.head)

    def _hook_linear(self, name: str, module: Any) -> None:
        def on_forward(_module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self._inputs.add(name, inputs[0])
            if self._with_gradients and output.requires_grad:
                weights = token_weights(inputs[0])
                self._weights[name] = self._weights.get(name, 0.0) + float(weights.sum())
                output.register_hook(lambda gradient: self._outputs.add(name, gradient, weights))

        self._handles.append(module.register_forward_hook(on_forward))

    def _on_lookup(self, _module: Any, _inputs: Any, output: Any) -> Any:
        if self._with_gradients:  # weights are frozen: the looked-up rows are where gradients begin
            output.requires_grad_(True)
            output.register_hook(self._keep_gradient)
        return output

    def _keep_gradient(self, gradient: "torch.Tensor") -> None:
        self._gradient = gradient.detach()

    def run_chunk(self, ids: NDArray[np.int64], generator: "torch.Generator") -> None:
        """One chunk [n_ctx] forward, and backward from labels sampled at every position."""
        import torch

        tokens = torch.from_numpy(ids)[None].to(self._loaded.device)
        self._gradient = None
        with torch.set_grad_enabled(self._with_gradients):
            logits = self._loaded.net(input_ids=tokens, use_cache=False).logits[0]
            if self._with_gradients:
                sampled_label_loss(logits, generator).backward()  # type: ignore[no-untyped-call]
        if self._embedding is not None:
            self._embedding.add(ids, None if self._gradient is None else self._gradient[0])

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _linear(self, name: str, n_tokens: int, architecture: Architecture) -> Powers | None:
        if name not in self._inputs.values:
            return None
        out: FloatArray | None = None
        in_power = (self._inputs.values[name] / n_tokens).astype(np.float32)
        if self._with_gradients:
            out = (self._outputs.values[name] / max(self._weights[name], 1.0)).astype(np.float32)
            out = vector_to_gguf_order(out, name, architecture, "row")
        return Powers(vector_to_gguf_order(in_power, name, architecture, "column"), out)

    def tensors(self, n_tokens: int, architecture: Architecture) -> dict[str, TensorSensitivity]:
        """The means over ``n_tokens`` tokens, in the GGUF's order of rows and columns."""
        found = {}
        for name in self._loaded.modules:
            lookup = self._embedding.powers(n_tokens) if name == EMBEDDING and self._embedding is not None else None
            linear = self._linear(name, n_tokens, architecture)
            if linear is not None or lookup is not None:
                found[name] = TensorSensitivity(linear, lookup)
        return found


def token_weights(inputs: "torch.Tensor") -> "torch.Tensor":
    """How much each token [...] of ``inputs`` [..., n_in] counts for out_power: |x|^2 over its median, at most 1."""
    energy = inputs.detach().float().square().sum(-1)
    median = energy.median()
    return (energy / median).clamp(max=1.0) if median > 0 else (energy > 0).float()


def sampled_label_loss(logits: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """Sum over positions [n, n_vocab] of the cross-entropy to one label a position, drawn from softmax(logits)."""
    import torch

    logits = logits.float()
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


def collect(
    loaded: TorchModel,
    model: Model,
    architecture: Architecture,
    chunks: NDArray[np.int64],
    with_gradients: bool,
    seed: int,
    progress: Progress,
) -> dict[str, TensorSensitivity]:
    """Powers of every tensor that torch can see, over ``chunks`` [n_chunks, n_ctx]."""
    import torch

    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    collector = Collector(loaded, with_gradients)
    progress.begin(f"estimate {model.name}", len(chunks))
    try:
        for chunk in chunks:
            collector.run_chunk(chunk, generator)
            progress.advance()
    finally:
        collector.close()
        progress.end()
    return collector.tensors(chunks.size, architecture)

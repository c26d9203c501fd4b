"""A llama with a wider residual stream that computes the same function, none of its weights on the grid that they were stored on.

The residual stream gets more channels, attention more heads, all zero; then the stream is turned: every new channel is rotated with
an old one and the old ones left over in pairs among themselves, and all channels change places. Norms are folded into the matrices
behind them, and as a mean over more channels is smaller, those matrices are scaled down. The head has a norm before it that the
embedding has not: so they can no longer be tied.

Everything is done element by element in IEEE arithmetic, seeded by numpy's frozen Mersenne Twister: it comes out the same everywhere.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.model import FloatArray

HalfArray = NDArray[np.float16]
SEED = 1
_SLAB_ROWS = 4096  # turned at a time, in float64


@dataclass(frozen=True, slots=True)
class Llama:
    """The sizes of a llama: ``width`` channels, heads of ``head_dim``."""

    width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_layers: int
    n_ff: int
    n_vocab: int
    rms_eps: float

    def widened(self, width: int, n_heads: int, n_kv_heads: int) -> "Llama":
        """The same with a wider stream and more heads; a sum over as many squares has a smaller mean now, hence a smaller epsilon."""
        return replace(self, width=width, n_heads=n_heads, n_kv_heads=n_kv_heads, rms_eps=self.rms_eps * self.width / width)


class _Random:
    """Numbers of a Mersenne Twister, drawn as torch's generator draws them: model files that it made stay comparable."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)  # numpy keeps its stream for ever

    def _word(self) -> int:
        return int(self._state.randint(0, 1 << 32, dtype=np.uint32))

    def permutation(self, n: int) -> list[int]:
        """The numbers below ``n`` in random order (Fisher and Yates)."""
        order = list(range(n))
        for i in range(n - 1):
            j = i + self._word() % (n - i)
            order[i], order[j] = order[j], order[i]
        return order

    def fraction(self) -> float:
        """Uniform in [0, 1), 24 bits."""
        return (self._word() % (1 << 24)) / (1 << 24)


@dataclass(frozen=True, slots=True)
class Turn:
    """An orthogonal map of the stream: new channel i is ``cos[i] * x[first[i]] + sin[i] * x[second[i]]``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    cos: NDArray[np.float64]
    sin: NDArray[np.float64]

    def of_columns(self, rows: FloatArray) -> FloatArray:
        """``rows`` [n, old or new width] times the map's transpose: [n, new width]."""
        out = np.empty((len(rows), len(self.cos)), np.float32)
        for begin in range(0, len(rows), _SLAB_ROWS):
            slab = rows[begin : begin + _SLAB_ROWS].astype(np.float64)
            wide = _padded(slab, len(slab), len(self.cos))
            turned = wide[:, self.first] * self.cos + wide[:, self.second] * self.sin
            out[begin : begin + _SLAB_ROWS] = turned + 0.0  # no zero keeps a sign
        return out

    def of_rows(self, rows: FloatArray) -> FloatArray:
        """The map times ``rows`` [old or new width, n]: [new width, n]."""
        return np.ascontiguousarray(self.of_columns(rows.T).T)


def turn_of(old: int, new: int, seed: int = SEED) -> Turn:
    """The map from ``old`` channels, padded with zeros, to ``new``. Needs ``new <= 2 * old``."""
    if not old <= new <= 2 * old:
        raise ValueError(f"{old} channels cannot be turned into {new}; at most twice as many")
    random = _Random(seed)
    places, real = random.permutation(new), random.permutation(old)
    n_new, n_rest = new - old, 2 * old - new
    pairs = [(real[i], old + i) for i in range(n_new)]
    pairs += [(real[n_new + 2 * i], real[n_new + 2 * i + 1]) for i in range(n_rest // 2)]
    first, second = np.arange(new), np.arange(new)
    cos, sin = np.ones(new), np.zeros(new)
    for a, b in pairs:
        angle = random.fraction() * math.pi / 3 + math.pi / 12  # 15 to 75 degrees: far from leaving a channel as it is
        second[a], second[b] = b, a
        cos[a] = cos[b] = math.cos(angle)
        sin[a], sin[b] = -math.sin(angle), math.sin(angle)
    return Turn(first[places], second[places], cos[places], sin[places])


def _padded(matrix: NDArray[np.floating], n_rows: int, n_columns: int) -> NDArray[np.floating]:
    """Zeros below and to the right of a matrix."""
    return np.pad(matrix, ((0, n_rows - matrix.shape[0]), (0, n_columns - matrix.shape[1])))


def widened_tensors(source: Mapping[str, FloatArray], old: Llama, new: Llama) -> Iterator[tuple[str, HalfArray]]:
    """The wide model's tensors by HF name, one after the other, from the narrow one's in HF's order of rows."""
    turn = turn_of(old.width, new.width)
    scale = np.float32(math.sqrt(old.width / new.width))

    def reads(matrix: FloatArray, norm: FloatArray, n_rows: int) -> HalfArray:
        """A matrix behind a norm."""
        return _padded(turn.of_columns(matrix * norm * scale), n_rows, new.width).astype(np.float16)

    def writes(matrix: FloatArray, n_in: int) -> HalfArray:
        """A matrix that adds to the stream."""
        return turn.of_rows(_padded(matrix, old.width, n_in)).astype(np.float16)

    ones = np.ones(new.width, np.float16)
    n_q, n_kv = new.n_heads * new.head_dim, new.n_kv_heads * new.head_dim
    embedding = source["model.embed_tokens.weight"]
    yield "model.embed_tokens.weight", turn.of_columns(embedding).astype(np.float16)
    yield "lm_head.weight", reads(embedding, source["model.norm.weight"], new.n_vocab)
    yield "model.norm.weight", ones
    for layer in range(new.n_layers):
        prefix = f"model.layers.{layer}."
        before = source[prefix + "input_layernorm.weight"]
        between = source[prefix + "post_attention_layernorm.weight"]
        yield prefix + "input_layernorm.weight", ones
        yield prefix + "post_attention_layernorm.weight", ones
        for role, n_rows in (("q_proj", n_q), ("k_proj", n_kv), ("v_proj", n_kv)):
            yield f"{prefix}self_attn.{role}.weight", reads(source[f"{prefix}self_attn.{role}.weight"], before, n_rows)
        yield f"{prefix}self_attn.o_proj.weight", writes(source[f"{prefix}self_attn.o_proj.weight"], n_q)
        for role in ("gate_proj", "up_proj"):
            yield f"{prefix}mlp.{role}.weight", reads(source[f"{prefix}mlp.{role}.weight"], between, new.n_ff)
        yield f"{prefix}mlp.down_proj.weight", writes(source[f"{prefix}mlp.down_proj.weight"], new.n_ff)

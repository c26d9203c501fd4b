"""Probes: one tensor of a candidate at a time put into the source, and the KLD that it alone makes."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
from bitclass3_torch.activations import rounded_products
from bitclass3_torch.model import TorchModel
from numpy.typing import NDArray

from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_torch_evaluator.scores import score_chunk

if TYPE_CHECKING:
    import torch


def drawn_tensors(loaded: TorchModel, reference: Model, candidate: Model, n_tensors: int, seed: int = 0) -> list[str]:
    """Names of at most ``n_tensors`` tensors, drawn at random from those whose type differs between candidate and reference."""
    changed = sorted(name for name in loaded.places if candidate.tensors[name].dtype != reference.tensors[name].dtype)
    return sorted(np.random.default_rng(seed).permutation(np.array(changed, dtype=str))[:n_tensors].tolist())


def tensor_klds(
    loaded: TorchModel,
    reference: Model,
    candidate: Model,
    architecture: Architecture,
    names: Sequence[str],
    chunks: NDArray[np.int64],
    expected: "Sequence[torch.Tensor]",
    activations: str,
    progress: Progress,
) -> dict[str, float]:
    """Mean KLD over ``chunks`` [n_chunks, n_ctx] of each named tensor, put alone from the candidate into the reference.

    Inputs are rounded as the types of that mixed model ask for. ``loaded`` has the reference's weights before and after; ``expected`` are
    its logits of each chunk [n_scored, n_vocab].
    """
    found = {}
    for name in names:
        types = {other: (candidate if other == name else reference).tensors[other] for other in loaded.places}
        loaded.load_weight(name, candidate, architecture)
        with rounded_products(loaded, cast("Model", SimpleNamespace(tensors=types)), activations):
            scores = [score_chunk(loaded, chunk, logits) for chunk, logits in zip(chunks, expected, strict=True)]
        loaded.load_weight(name, reference, architecture)
        found[name] = float(np.mean([score.kld.mean() for score in scores]))
        progress.advance()
    return found

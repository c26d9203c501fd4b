"""The bench: one model in torch, into which the weights of each file are put, and the text that is scored with them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from bitclass3_torch.activations import rounded_products
from bitclass3_torch.model import TorchModel
from numpy.typing import NDArray

from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_torch_evaluator.scores import Scores, reference_logits, score_chunk


@dataclass(frozen=True, slots=True)
class Bench:
    """What candidates are measured with: ``reference`` is the model that they are compared with, ``loaded`` takes the weights."""

    loaded: TorchModel
    reference: Model
    architecture: Architecture
    activations: str
    progress: Progress

    def _put(self, source: Model, names: Iterable[str] | None = None) -> None:
        """Put tensors of a GGUF into the model, all unless named, one tensor or expert at a time."""
        for name in self.loaded.places if names is None else names:
            self.loaded.load_weight(name, source, self.architecture)

    def scores(self, candidates: Sequence[Model], chunks: NDArray[np.int64], n_at_a_time: int) -> list[Scores]:
        """The scores of each candidate on ``chunks`` [n_chunks, n_ctx]; reference logits of ``n_at_a_time`` are in memory together."""
        found: list[list[Scores]] = [[] for _ in candidates]
        for begin in range(0, len(chunks), n_at_a_time):
            self._put(self.reference)
            group = chunks[begin : begin + n_at_a_time]
            expected: list[torch.Tensor] = []
            for chunk in group:
                expected.append(reference_logits(self.loaded, chunk))
                self.progress.advance()
            for candidate, scores in zip(candidates, found, strict=True):
                self._put(candidate)
                with rounded_products(self.loaded, candidate, self.activations):
                    for chunk, logits in zip(group, expected, strict=True):
                        scores.append(score_chunk(self.loaded, chunk, logits))
                        self.progress.advance()
        return [Scores.joined(scores) for scores in found]

    def tensor_klds(self, candidate: Model, n_tensors: int, chunks: NDArray[np.int64]) -> dict[str, float]:
        """Mean KLD over ``chunks`` of single tensors, drawn at random, each put alone from the candidate into the reference.

        Inputs are rounded as the types of that mixed model ask for. Empty if no tensors are asked for.
        """
        if not n_tensors:
            return {}
        names = self._drawn(candidate, n_tensors)
        self.progress.begin(f"probe {candidate.path.stem}", len(names))
        self._put(self.reference)
        expected = [reference_logits(self.loaded, chunk) for chunk in chunks]
        found = {}
        for name in names:
            types = {other: (candidate if other == name else self.reference).tensors[other] for other in self.loaded.places}
            self._put(candidate, [name])
            with rounded_products(self.loaded, cast("Model", SimpleNamespace(tensors=types)), self.activations):
                scores = [score_chunk(self.loaded, chunk, logits) for chunk, logits in zip(chunks, expected, strict=True)]
            self._put(self.reference, [name])
            found[name] = float(np.mean([score.kld.mean() for score in scores]))
            self.progress.advance()
        self.progress.end()
        return found

    def _drawn(self, candidate: Model, n_tensors: int) -> list[str]:
        """Names of at most ``n_tensors`` tensors, drawn at random from those whose type differs between candidate and reference."""
        theirs, ours = candidate.tensors, self.reference.tensors
        changed = sorted(name for name in self.loaded.places if theirs[name].dtype != ours[name].dtype)
        return sorted(np.random.default_rng(0).permutation(np.array(changed, dtype=str))[:n_tensors].tolist())

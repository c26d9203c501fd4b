"""A model with any mix of types in it, its divergence on text, and the solver's answer to any table of costs."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import SimpleNamespace

import bitclass3_ilp
import numpy as np
import torch
from bitclass3_gguf import quantized_tensor
from bitclass3_torch.loading import load_torch_model
from bitclass3_torch.rounding import rounded_products
from bitclass3_torch.scoring import reference_logits, score_chunk
from bitclass3_torch.tokens import token_chunks
from numpy.typing import NDArray

from bitclass3_core.constraints.problem import build_problem
from bitclass3_core.corpus import Document
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.gguf.kernels import dequantize
from bitclass3_core.model import FloatArray
from bitclass3_core.problem import Problem
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import activation_format, qtype
from bitclass3_core.runs.pipeline import Pipeline

N_CTX = 512
N_SCORED = 4  # chunks of calibration text after those of the estimate: inputs and gradients, token by token
N_JUDGED = 6  # and after them: mixes are measured on these
Mix = Mapping[str, str]
Table = dict[str, dict[str, float]]


class Lab:
    """One size of one model: ``table`` has the two vectors' costs, ``base`` the mix that they lead to."""

    def __init__(self, pipeline: Pipeline, test: Document, n_test: int, progress: Progress) -> None:
        pipeline.run("solve")
        self.pipeline, self.progress = pipeline, progress
        self.model, self.architecture = pipeline.model, pipeline.architecture
        self.table: Table = {name: {q: cell.cost for q, cell in cells.items()} for name, cells in pipeline.costs.costs.items()}
        self.base: Mix = dict(pipeline.allocation.qtypes)
        self.loaded = load_torch_model(self.model, self.architecture, "auto", "auto")
        n_before = pipeline.sensitivity.n_tokens // N_CTX
        wanted = (n_before + N_SCORED + N_JUDGED) * N_CTX
        chunks, _ = token_chunks(self.loaded.tokenizer, pipeline.corpus.calibration, wanted, N_CTX, "calibration")
        self.calibration = chunks[:n_before]
        self.scored, self.judged = chunks[n_before : n_before + N_SCORED], chunks[n_before + N_SCORED :]
        self.test, _ = token_chunks(self.loaded.tokenizer, [test], n_test * N_CTX, N_CTX, "test")
        self._references = {id(part): [reference_logits(self.loaded, chunk) for chunk in part] for part in (self.judged, self.test)}
        self._cells: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._in_place: dict[str, str] = {}

    @cached_property
    def problem(self) -> Problem:
        """What the solver was asked: the types of each tensor that are worth a thought."""
        return self.pipeline.problem

    def choices(self, name: str) -> list[str]:
        """The types that a tensor can have, smallest first."""
        return next([c.qtype for c in group.choices] for group in self.problem.groups if name in group.tensors)

    def weights(self, name: str, q: str) -> FloatArray:
        """The tensor at a type, dequantized [n_rows, n_in]."""
        if qtype(q).is_float:
            return self.model.read(name)
        if (name, q) not in self._cells:
            with ThreadPoolExecutor(self.pipeline.threads) as pool:
                self._cells[name, q] = quantized_tensor(self.model, name, qtype(q), self.pipeline.sensitivity, pool)
        return dequantize(self._cells[name, q], qtype(q))

    def put(self, mix: Mix) -> None:
        """Put a mix into the model; a tensor that it does not name gets the source's weights."""
        for name in self.loaded.places:
            q = mix.get(name, self.model.tensors[name].dtype)
            if self._in_place.get(name, self.model.tensors[name].dtype) != q:
                self.loaded.set_weight(name, self.weights(name, q), self.architecture)
                self._in_place[name] = q

    def divergences(self, mix: Mix, chunks: NDArray[np.int64], activations: str = "cpu") -> NDArray[np.float64]:
        """KLD of the mix from the source, the mean of each chunk; ``chunks`` are ``judged`` or ``test``."""
        self.put(mix)
        types = {name: SimpleNamespace(dtype=mix.get(name, self.model.tensors[name].dtype)) for name in self.loaded.places}
        candidate = SimpleNamespace(tensors=types)
        references = self._references[id(chunks)]
        with rounded_products(self.loaded, candidate, activations):
            scores = [score_chunk(self.loaded, chunk, reference) for chunk, reference in zip(chunks, references, strict=True)]
        return np.array([float(score.kld.mean()) for score in scores])

    def total(self, table: Mapping[str, Mapping[str, float]], mix: Mix) -> float:
        """Predicted KLD of a mix."""
        return float(sum(table[name][q] for name, q in mix.items()))

    def solved(self, table: Mapping[str, Mapping[str, float]], near: Mix | None = None) -> Mix:
        """The best mix by a table; with ``near`` each tensor at most one choice away from what it has there."""
        costs = {
            name: {q: Cost(cost, 0.0, 0) for q, cost in cells.items() if near is None or q in self._around(name, near[name])}
            for name, cells in table.items()
        }
        failed = self.pipeline.folder.unusable(self.pipeline.source)
        problem = build_problem(self.model, self.architecture, CostTable(costs), self.pipeline.limits, self.pipeline.budget, failed)
        return dict(bitclass3_ilp.bitclass3_solve(problem=problem, options=bitclass3_ilp.Options()).qtypes)

    def _around(self, name: str, q: str) -> list[str]:
        known = self.choices(name)
        place = known.index(q) if q in known else 0
        return known[max(0, place - 1) : place + 2]

    def activation(self, name: str, q: str) -> float:
        """What of a tensor's cost is the rounding of its inputs."""
        form = activation_format(qtype(q))
        return self.pipeline.sensitivity.tensors[name].activation.get(form, 0.0) if form else 0.0

    def errors(self, name: str, of: Callable[[torch.Tensor], float]) -> dict[str, float]:
        """For each choice of a tensor, what ``of`` says of its error D [n_rows, n_in], and the rounding of its inputs."""
        source = self.model.read(name)
        found = {}
        for q in self.choices(name):
            difference = torch.from_numpy(self.weights(name, q) - source)
            found[q] = of(difference) + self.activation(name, q)
        return found

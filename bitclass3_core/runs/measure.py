"""The costs of a run: measured one tensor at a time, in threads, every finished tensor kept."""

import math
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.constraints.wanted import Cells
from bitclass3_core.costs import Cost, CostStore, CostTable
from bitclass3_core.errors import UnusableTypeError
from bitclass3_core.files import digest_of
from bitclass3_core.gguf.kernels import library
from bitclass3_core.machine import default_threads
from bitclass3_core.model import Model, OneTensor
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType
from bitclass3_core.runs.estimate import Estimate
from bitclass3_core.runs.inputs import Inputs

MeasureHook = Callable[[Model, tuple[QType, ...]], CostTable]


@dataclass(frozen=True, slots=True)
class CostJob:
    """Costs that are wanted of a model, and the store that keeps them under the fingerprint of all that they depend on."""

    model: Model
    wanted: Cells
    store: CostStore
    fingerprint: str

    def missing(self) -> Cells:
        """What is wanted and not in the store, the largest tensors first."""
        known = self.store.load(self.fingerprint)
        left = {name: tuple(q for q in types if q.name not in known.get(name, {})) for name, types in self.wanted.items()}
        order = sorted(left, key=lambda name: -self.model.tensors[name].n_params)
        return {name: left[name] for name in order if left[name]}

    def table(self, in_nats: bool) -> CostTable:
        """The finished table, each tensor's source type added: keeping a tensor as it is costs nothing."""
        known = self.store.load(self.fingerprint)
        source = Cost(0.0, 0.0, 0)
        costs = {
            name: {**{q.name: known[name][q.name] for q in types}, self.model.tensors[name].dtype: source}
            for name, types in self.wanted.items()
        }
        return CostTable(costs, in_nats)

    def measure(self, hook: MeasureHook, threads: int, progress: Progress) -> None:
        """Measure what is missing, in threads; every finished tensor is kept, also when another fails or Ctrl-C comes."""
        missing = self.missing()
        if not missing:
            return
        n_cells = sum(len(types) for types in missing.values())
        n_known = sum(len(types) for types in self.wanted.values()) - n_cells
        progress.say(f"measure: {n_cells} costs ({n_known} already measured) of {len(missing)} tensors")
        weights = {name: self.model.tensors[name].n_params * len(types) for name, types in missing.items()}
        progress.begin("measure", sum(weights.values()))

        def measure(name: str) -> str:
            table = hook(OneTensor(self.model, name), missing[name])
            self.store.save(self.fingerprint, name, {q.name: table.costs[name][q.name] for q in missing[name]})
            return name

        try:
            with ThreadPoolExecutor(threads) as executor:
                _each(executor, measure, list(missing), lambda name: progress.advance(weights[name]))
        finally:
            progress.end()


def _each(executor: Executor, work: Callable[[str], str], names: list[str], done_with: Callable[[str], None]) -> None:
    """Run ``work`` on every name; on an error or Ctrl-C what runs is finished, what waits is dropped."""
    pending: set[Future[str]] = {executor.submit(work, name) for name in names}
    try:
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                done_with(future.result())
    except BaseException:
        for future in pending:
            future.cancel()
        raise


def costs_path(inputs: Inputs) -> Path:
    """Where a run keeps its cost table."""
    return inputs.context.folder.path / "costs.sqlite"


def cost_job(inputs: Inputs, estimate: Estimate) -> CostJob:
    """The costs that a run wants, with all that they depend on."""
    parts = {
        "source": inputs.model.fingerprint,
        "sensitivity": estimate.sha256,
        "kernels": library().fingerprint,
        **inputs.stages.identity("measure"),
    }
    return CostJob(inputs.model, inputs.wanted, CostStore(costs_path(inputs)), digest_of(parts))


def measured_costs(inputs: Inputs, estimate: Estimate) -> CostTable:
    """The cost table; only what is missing is measured."""
    job = cost_job(inputs, estimate)
    wanted = {name: [q.name for q in types] for name, types in inputs.wanted.items()}
    parts = {"costs": job.fingerprint, "wanted": wanted, "in_nats": estimate.sensitivity.in_nats}
    return inputs.context.results.get("costs", parts, lambda: _measure(inputs, job, estimate))


def _measure(inputs: Inputs, job: CostJob, estimate: Estimate) -> CostTable:
    stages, context = inputs.stages, inputs.context
    with context.timed("measure", stages.called):
        hook = stages.measure_hook(estimate.sensitivity)
        job.measure(hook, default_threads(inputs.config.threads), context.progress)
    table = job.table(estimate.sensitivity.in_nats)
    _note_unusable(inputs, table)
    return table


def _note_unusable(inputs: Inputs, table: CostTable) -> None:
    """Say once which tensors cannot have which type, as the kernels found."""
    folder, source = inputs.context.folder, inputs.source
    known = folder.unusable(source)
    for name, cells in table.costs.items():
        for q in (q for q, cell in cells.items() if math.isinf(cell.cost) and (name, q) not in known):
            error = UnusableTypeError(name, q, "its blocks come out invalid")
            folder.put_unusable(source, name, q, error.reason)
            inputs.context.warn(f"{error}; it gets a larger type")

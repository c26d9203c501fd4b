"""Running the measure hook: one tensor at a time, in threads, every finished tensor kept."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from bitclass3_core.constraints.wanted import Cells
from bitclass3_core.costs import Cost, CostStore, CostTable
from bitclass3_core.model import Model, OneTensor
from bitclass3_core.plugin.checks import check_costs
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType

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

    def measure(self, hook: MeasureHook, plugin: str, threads: int, progress: Progress) -> None:
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
            names = [q.name for q in missing[name]]
            table = hook(OneTensor(self.model, name), missing[name])
            check_costs(table, {name: names}, plugin)
            self.store.save(self.fingerprint, name, {q: table.costs[name][q] for q in names})
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

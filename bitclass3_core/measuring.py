"""Running the measure hook: one tensor at a time, in threads, every finished tensor kept."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.checks import check_costs
from bitclass3_core.costs import Cost, CostStore, CostTable
from bitclass3_core.limits import Limits
from bitclass3_core.model import FloatArray, Model, Rows, TensorInfo
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType, qtype

MeasureHook = Callable[[Model, tuple[QType, ...]], CostTable]


class OneTensor:
    """A view of a model that has a single tensor: what the measure hook gets to see."""

    def __init__(self, model: Model, name: str) -> None:
        self._model = model
        self.name, self.arch, self.path, self.hf = model.name, model.arch, model.path, model.hf
        self.metadata: Mapping[str, Any] = model.metadata
        self.fields: Mapping[str, Any] = model.fields
        self.fingerprint = model.fingerprint
        self.tensors: Mapping[str, TensorInfo] = {name: model.tensors[name]}

    def read(self, name: str, rows: Rows = None) -> FloatArray:
        """Rows of the tensor."""
        return self._model.read(name, rows)

    def read_raw(self, name: str) -> NDArray[np.uint8]:
        """Bytes of the tensor."""
        return self._model.read_raw(name)


def wanted_qtypes(info: TensorInfo, qtypes: tuple[QType, ...]) -> tuple[QType, ...]:
    """The types of the menu that a tensor's rows accept and that are smaller than what it is stored in."""
    source = qtype(info.dtype)
    return tuple(q for q in qtypes if info.accepts(q) and not q.is_float and q.bpw < source.bpw)


Cells = Mapping[str, tuple[QType, ...]]


def wanted_cells(model: Model, quantizable: frozenset[str], qtypes: tuple[QType, ...], limits: Limits) -> Cells:
    """The types at which each quantizable tensor is to be measured: its own menu's or ``qtypes``, its pin and floor whatever the menu."""
    wanted = {}
    for name in sorted(quantizable):
        types = limits.menus.get(name, qtypes)
        asked = {qtype(limits.pins[name])} if name in limits.pins else set()
        if name in limits.floors and name not in limits.menus:
            asked.add(limits.floors[name])
        wanted[name] = wanted_qtypes(model.tensors[name], (*types, *sorted(asked - set(types))))
    return wanted


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


def default_threads(asked: int) -> int:
    """Threads to use: as asked, else every core that this process may run on."""
    if asked:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

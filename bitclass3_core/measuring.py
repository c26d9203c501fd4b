"""Running the measure hook: one tensor at a time, in threads, every finished tensor kept."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.checks import check_costs
from bitclass3_core.costs import Cost, CostStore, CostTable
from bitclass3_core.model import FloatArray, Model, Rows, TensorInfo
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType, qtype
from bitclass3_core.sensitivity import Sensitivity

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


def complete(model: Model, costs: Mapping[str, Mapping[str, Cost]]) -> dict[str, dict[str, Cost]]:
    """The costs with each tensor's source type added: keeping a tensor as it is costs nothing."""
    return {name: {**cells, model.tensors[name].dtype: Cost(0.0, 0.0, 0)} for name, cells in costs.items()}


def measure_costs(
    model: Model,
    sensitivity: Sensitivity,
    quantizable: frozenset[str],
    qtypes: tuple[QType, ...],
    hook: MeasureHook,
    store: CostStore,
    fingerprint: str,
    plugin: str,
    threads: int,
    progress: Progress,
    pins: Mapping[str, str],
) -> CostTable:
    """The cost table: cells found in the store are used, the missing ones measured, largest tensors first.

    A pinned tensor is measured at its pin too, whatever the menu.
    """
    known = store.load(fingerprint)
    wanted = {}
    for name in sorted(quantizable):
        pinned = {qtype(pins[name])} - set(qtypes) if name in pins else set()
        wanted[name] = wanted_qtypes(model.tensors[name], (*qtypes, *pinned))
    missing = {name: tuple(q for q in types if q.name not in known.get(name, {})) for name, types in wanted.items()}
    missing = {name: types for name, types in missing.items() if types}
    if missing:
        n_cells = sum(len(types) for types in missing.values())
        n_known = sum(len(types) for types in wanted.values()) - n_cells
        progress.say(f"measure: {n_cells} costs ({n_known} already measured) of {len(missing)} tensors")
        order = sorted(missing, key=lambda name: -model.tensors[name].n_params)
        progress.begin("measure", sum(model.tensors[name].n_params * len(missing[name]) for name in order))
        with ThreadPoolExecutor(threads) as executor:
            _measure_all(order, missing, model, hook, store, fingerprint, plugin, executor, progress)
        progress.end()
        known = store.load(fingerprint)
    costs = {name: {q.name: known[name][q.name] for q in types} for name, types in wanted.items()}
    return CostTable(complete(model, costs), in_nats=sensitivity.in_nats)


def _measure_all(
    order: list[str],
    missing: Mapping[str, tuple[QType, ...]],
    model: Model,
    hook: MeasureHook,
    store: CostStore,
    fingerprint: str,
    plugin: str,
    executor: Executor,
    progress: Progress,
) -> None:
    def measure(name: str) -> str:
        table = hook(OneTensor(model, name), missing[name])
        names = [q.name for q in missing[name]]
        check_costs(table, {name: names}, plugin)
        store.save(fingerprint, name, {q: table.costs[name][q] for q in names})
        return name

    pending: set[Future[str]] = {executor.submit(measure, name) for name in order}
    try:
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                name = future.result()
                progress.advance(model.tensors[name].n_params * len(missing[name]))
    except BaseException:  # Ctrl-C too: what runs is finished and kept, what waits is dropped
        for future in pending:
            future.cancel()
        raise


def default_threads(asked: int) -> int:
    """Threads to use: as asked, else every core that this process may run on."""
    if asked:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

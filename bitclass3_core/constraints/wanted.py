"""Which types each tensor is measured at."""

from collections.abc import Mapping

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.model import Model, TensorInfo
from bitclass3_core.qtypes import QType, qtype


def wanted_qtypes(info: TensorInfo, qtypes: tuple[QType, ...]) -> tuple[QType, ...]:
    """The types of the menu that a tensor's rows accept and that are smaller than its source type."""
    source = qtype(info.dtype)
    return tuple(q for q in qtypes if info.accepts(q) and not q.is_float and q.bpw < source.bpw)


Cells = Mapping[str, tuple[QType, ...]]


def wanted_cells(model: Model, quantizable: frozenset[str], qtypes: tuple[QType, ...], limits: Limits) -> Cells:
    """The types to measure each quantizable tensor at: those of its own menu, or ``qtypes`` and its floor; and always its pin."""
    wanted = {}
    for name in sorted(quantizable):
        types = limits.menus.get(name, qtypes)
        asked = {qtype(limits.pins[name])} if name in limits.pins else set()
        if name in limits.floors and name not in limits.menus:
            asked.add(limits.floors[name])
        wanted[name] = wanted_qtypes(model.tensors[name], (*types, *sorted(asked - set(types))))
    return wanted

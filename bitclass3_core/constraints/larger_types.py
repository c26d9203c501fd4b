"""Types that a tensor turned out to be unable to have, and the next larger one that takes their place."""

from collections.abc import Collection, Mapping

from bitclass3_core.model import Model, TensorInfo
from bitclass3_core.qtypes import menu, qtype


def larger_type(info: TensorInfo, failed: str) -> str:
    """The next larger type that a tensor's rows accept; its source type if there is none."""
    larger = [q for q in menu("all") if q.bpw > qtype(failed).bpw and info.accepts(q) and q.bpw < qtype(info.dtype).bpw]
    return min(larger, key=lambda q: q.bpw).name if larger else info.dtype


def usable_types(model: Model, qtypes: Mapping[str, str], unusable: Collection[tuple[str, str]]) -> dict[str, str]:
    """``qtypes``, but for a pair of tensor and type that is unusable the next larger type that is not."""
    found = dict(qtypes)
    for name in qtypes:
        while (name, found[name]) in unusable:
            found[name] = larger_type(model.tensors[name], found[name])
    return found

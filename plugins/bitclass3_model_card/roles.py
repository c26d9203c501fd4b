"""The tensors by role: scores, predicted costs per weight at one type that all can have, and which roles got the bits."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from bitclass3_core.model import TensorInfo, total_params
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Run
from bitclass3_model_card.text import NOT_MEASURED, code, listed, n_weights, number, table, tensor

_SHOWN = 3
_USUAL_BPW = 4.5


@dataclass(frozen=True, slots=True)
class Role:
    """All tensors of one role that the allocation gives a type."""

    name: str
    infos: tuple[TensorInfo, ...]

    @property
    def n_params(self) -> int:
        """Number of weights of the role."""
        return sum(info.n_params for info in self.infos)

    def bpw(self, qtypes: Mapping[str, str]) -> float:
        """Bits per weight that an allocation gives the role."""
        return 8 * sum(info.n_bytes(qtype(qtypes[info.name])) for info in self.infos) / self.n_params

    def mean(self, values: Mapping[str, float]) -> float | None:
        """Mean over the role's tensors that have a value; None if none has."""
        known = [values[info.name] for info in self.infos if info.name in values]
        return sum(known) / len(known) if known else None


def _roles(run: Run) -> list[Role]:
    """Roles of the tensors in our allocation, by name."""
    found: dict[str, list[TensorInfo]] = defaultdict(list)
    for name in run.ours.allocation.qtypes:
        if name in run.model.tensors:
            found[run.model.tensors[name].role].append(run.model.tensors[name])
    return [Role(name, tuple(infos)) for name, infos in sorted(found.items())]


def _common_qtype(run: Run) -> str:
    """The type at which most tensors have a cost, Q4_K if several tie; empty if there are no costs in nats."""
    if not run.costs.in_nats:
        return ""
    n_priced = Counter(q for name in run.ours.allocation.qtypes for q in run.costs.costs.get(name, {}))
    return max(n_priced, key=lambda name: (n_priced[name], -abs(qtype(name).bpw - _USUAL_BPW), name == "Q4_K"), default="")


def _price_unit(run: Run) -> tuple[float, str]:
    """The unit of prices, (number of weights, its name), so that figures have few zeros."""
    return (1e9, "billion weights") if total_params(run.model) >= 1e9 else (1e6, "million weights")


def _price(run: Run, infos: tuple[TensorInfo, ...], at: str) -> float | None:
    """The price of tensors together at type ``at``, predicted nats per token and price unit; None if one has no cost."""
    cells = [run.costs.costs.get(info.name, {}).get(at) for info in infos]
    n_params = sum(info.n_params for info in infos)
    return _price_unit(run)[0] * sum(cell.cost for cell in cells if cell) / n_params if at and all(cells) else None


def _largest(ranked: list[tuple[str, float]]) -> str:
    """The first of them with their figures, but never more than half of them."""
    return ", ".join(f"{label} ({number(value, 3)})" for label, value in ranked[: min(_SHOWN, len(ranked) // 2)])


def price_lines(run: Run) -> list[str]:
    """Sentences on the highest and lowest costs per weight; none if costs are not in nats."""
    at, infos = _common_qtype(run), run.model.tensors
    priced = {name: _price(run, (infos[name],), at) for name in run.ours.allocation.qtypes if name in infos}
    prices = sorted(((tensor(name), price) for name, price in priced.items() if price is not None), key=lambda entry: -entry[1])
    if len(prices) < 2:
        return []
    unit = f"Predicted cost per weight at {at} (nats per token and {_price_unit(run)[1]})"
    return [f"{unit}: highest for {_largest(prices)}; smallest for {_largest(prices[::-1])}."]


def allocation_lines(run: Run) -> list[str]:
    """The roles that got the most and the fewest bits per weight, and the floors."""
    ranked = [(code(role.name), role.bpw(run.ours.allocation.qtypes)) for role in _roles(run)]
    if not ranked:
        return []
    ranked.sort(key=lambda entry: -entry[1])
    floors = sorted({(run.model.tensors[name].role, q) for name, q in run.architecture.floors.items() if name in run.model.tensors})
    least = [f"Floors, whatever the price: {listed([f'{code(role)} at least {q}' for role, q in floors])}."] if floors else []
    if ranked[0][1] == ranked[-1][1]:
        return [f"Every role got {number(ranked[0][1], 3)} bpw.", *least]
    return [f"Most bits per weight went to {_largest(ranked)}; fewest to {_largest(ranked[::-1])}.", *least]


def role_table(run: Run, scores: Mapping[str, float]) -> str:
    """A table with the tensors, weights, mean score, price and bpw of every role."""
    at, qtypes = _common_qtype(run), run.ours.allocation.qtypes
    rows = []
    for role in _roles(run):
        figures = (role.mean(scores), *([_price(run, role.infos, at)] if at else []))
        cells = [NOT_MEASURED if value is None else number(value, 3) for value in figures]
        rows.append([code(role.name), str(len(role.infos)), n_weights(role.n_params), *cells, f"{role.bpw(qtypes):.2f}"])
    priced = [f"Cost at {at}, nats per token and {_price_unit(run)[1]}"] if at else []
    return table(["Role", "Tensors", "Weights", "Mean score", *priced, "BPW given"], rows)


def type_table(run: Run) -> str:
    """A table of how many tensors of each role have each type; its last row has each type's share of the weights."""
    qtypes, found = run.ours.allocation.qtypes, _roles(run)
    weights = Counter[str]()
    for info in (info for role in found for info in role.infos):
        weights[qtypes[info.name]] += info.n_params
    names, total = sorted(weights, key=lambda name: (qtype(name).bpw, name)), max(1, weights.total())
    rows = []
    for role in found:
        counts = Counter(qtypes[info.name] for info in role.infos)
        rows.append([code(role.name), *(str(counts[name] or "") for name in names)])
    rows.append(["share of these weights", *(f"{100 * weights[name] / total:.1f} %" for name in names)])
    n_rest = len(run.model.tensors) - sum(len(role.infos) for role in found)
    rest = f"\n\nAll other tensors ({n_rest:,}, norms and the like) keep their source type." if n_rest else ""
    return table(["Role", *names], rows) + rest

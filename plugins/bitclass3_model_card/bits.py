"""Which roles got the bits, and in which types."""

from collections import Counter
from collections.abc import Mapping

from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Run
from bitclass3_model_card.facts import Role, roles
from bitclass3_model_card.prices import common_qtype, price_unit, role_price
from bitclass3_model_card.text import NOT_MEASURED, code, listed, n_weights, number, table

_SHOWN = 3


def _with_bpw(ranked: list[tuple[Role, float]]) -> str:
    return ", ".join(f"{code(role.name)} ({number(bpw, 3)})" for role, bpw in ranked)


def _floors(run: Run) -> list[str]:
    floors = {(run.model.tensors[name].role, q) for name, q in run.architecture.floors.items() if name in run.model.tensors}
    if not floors:
        return []
    return [f"Floors, whatever the price: {listed([f'{code(role)} at least {q}' for role, q in sorted(floors)])}."]


def allocation_lines(run: Run) -> list[str]:
    """The roles that got the most and the fewest bits per weight, and the floors."""
    qtypes = run.ours.allocation.qtypes
    ranked = sorted(((role, role.bpw(qtypes)) for role in roles(run)), key=lambda entry: (-entry[1], entry[0].name))
    if not ranked:
        return []
    if ranked[0][1] == ranked[-1][1]:
        return [f"Every role got {number(ranked[0][1], 3)} bpw.", *_floors(run)]
    shown = min(_SHOWN, len(ranked) // 2)
    most, fewest = _with_bpw(ranked[:shown]), _with_bpw(ranked[::-1][:shown])
    return [f"Most bits per weight went to {most}; fewest to {fewest}.", *_floors(run)]


def role_table(run: Run, scores: Mapping[str, float]) -> str:
    """A table with the tensors, weights, mean score, price and bpw of every role."""
    at, qtypes = common_qtype(run), run.ours.allocation.qtypes
    rows = []
    for role in roles(run):
        score, price = role.mean(scores), role_price(run, role, at)
        cells = [NOT_MEASURED if value is None else number(value, 3) for value in (score, *([price] if at else []))]
        rows.append([code(role.name), str(len(role.infos)), n_weights(role.n_params), *cells, f"{role.bpw(qtypes):.2f}"])
    priced = [f"Cost at {at}, nats per token and {price_unit(run)[1]}"] if at else []
    return table(["Role", "Tensors", "Weights", "Mean score", *priced, "BPW given"], rows)


def type_table(run: Run) -> str:
    """A table of how many tensors of each role have each type; its last row has each type's share of the weights."""
    qtypes, found = run.ours.allocation.qtypes, roles(run)
    names = sorted({qtypes[info.name] for role in found for info in role.infos}, key=lambda name: (qtype(name).bpw, name))
    rows, weights = [], Counter[str]()
    for role in found:
        counts = Counter(qtypes[info.name] for info in role.infos)
        for info in role.infos:
            weights[qtypes[info.name]] += info.n_params
        rows.append([code(role.name), *(str(counts[name]) if counts[name] else "" for name in names)])
    total = max(1, sum(weights.values()))
    rows.append(["share of these weights", *(f"{100 * weights[name] / total:.1f} %" for name in names)])
    n_rest = len(run.model.tensors) - sum(len(role.infos) for role in found)
    rest = f"\n\nAll other tensors ({n_rest:,}, norms and the like) keep their source type." if n_rest else ""
    return table(["Role", *names], rows) + rest

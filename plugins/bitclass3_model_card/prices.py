"""Predicted cost per weight, at one type that all tensors can have."""

from collections import Counter

from bitclass3_core.model import total_params
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Run
from bitclass3_model_card.facts import Role
from bitclass3_model_card.text import code, number

_SHOWN = 3
_USUAL_BPW = 4.5


def common_qtype(run: Run) -> str:
    """The type at which most tensors have a cost, Q4_K if several tie; empty if there are no costs in nats."""
    if not run.costs.in_nats:
        return ""
    n_priced = Counter(name for tensor in run.ours.allocation.qtypes for name in run.costs.costs.get(tensor, {}))
    return max(n_priced, key=lambda name: (n_priced[name], -abs(qtype(name).bpw - _USUAL_BPW), name == "Q4_K"), default="")


def price_unit(run: Run) -> tuple[float, str]:
    """The unit of prices, (number of weights, its name), so that figures have few zeros."""
    return (1e9, "billion weights") if total_params(run.model) >= 1e9 else (1e6, "million weights")


def tensor_prices(run: Run, at: str) -> dict[str, float]:
    """The price of every tensor at type ``at``: predicted nats per token and price unit."""
    cells = {name: run.costs.costs.get(name, {}).get(at) for name in run.ours.allocation.qtypes if name in run.model.tensors}
    unit, _ = price_unit(run)
    return {name: unit * cell.cost / run.model.tensors[name].n_params for name, cell in cells.items() if cell}


def role_price(run: Run, role: Role, at: str) -> float | None:
    """The price of all tensors of a role together; None if one has no cost."""
    cells = [run.costs.costs.get(info.name, {}).get(at) for info in role.infos]
    return price_unit(run)[0] * sum(cell.cost for cell in cells if cell) / role.n_params if at and all(cells) else None


def price_lines(run: Run) -> list[str]:
    """Sentences on the highest and lowest costs per weight; none if costs are not in nats."""
    at = common_qtype(run)
    prices = sorted(tensor_prices(run, at).items(), key=lambda entry: -entry[1]) if at else []
    if len(prices) < 2:
        return []
    shown = min(_SHOWN, len(prices) // 2)
    dear, cheap = (
        ", ".join(f"{code(name.removesuffix('.weight'))} ({number(price, 3)})" for name, price in part)
        for part in (prices[:shown], prices[::-1][:shown])
    )
    unit = f"Predicted cost per weight at {at} (nats per token and {price_unit(run)[1]})"
    return [f"{unit}: highest for {dear}; smallest for {cheap}."]

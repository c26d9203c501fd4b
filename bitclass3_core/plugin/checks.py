"""What the core checks of every plugin's answer, once, here."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import ContractError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Powers, Sensitivity

_LABEL = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)


def listed(names: Iterable[str], limit: int = 3) -> str:
    """``a, b, c and 2 more``: the first of the names, sorted, for a message."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check_architecture(answer: Architecture, model: Model, plugin: str) -> None:
    """Every name that the architecture speaks of is a tensor of the model, and the permutations are permutations."""
    named = {*answer.quantizable, *answer.floors, *answer.row_order, *answer.column_order}
    unknown = named - set(model.tensors)
    if unknown:
        raise ContractError(f"plugin {plugin!r} names tensors that the model does not have: {listed(unknown)}")
    for orders, axis in ((answer.row_order, "n_rows"), (answer.column_order, "n_in")):
        for name, order in orders.items():
            n = getattr(model.tensors[name], axis)
            if not np.array_equal(np.sort(order), np.arange(n)):
                raise ContractError(f"plugin {plugin!r}: the order of {name} is no permutation of its {n} {axis}")


def _check_powers(powers: Powers, model: Model, name: str, plugin: str) -> None:
    info = model.tensors[name]
    shapes = {(info.n_in,), (info.n_experts, info.n_in)}
    if powers.in_power.shape not in shapes:
        raise ContractError(f"plugin {plugin!r}: in_power of {name} has shape {powers.in_power.shape}, expected ({info.n_in},)")
    if powers.out_power is not None and powers.out_power.shape != (info.n_rows,):
        raise ContractError(f"plugin {plugin!r}: out_power of {name} has shape {powers.out_power.shape}, expected ({info.n_rows},)")
    if powers.in_fisher is not None and powers.in_fisher.shape != powers.in_power.shape:
        raise ContractError(
            f"plugin {plugin!r}: in_fisher of {name} has shape {powers.in_fisher.shape}, in_power has {powers.in_power.shape}"
        )
    for vector in (powers.in_power, powers.out_power, powers.in_fisher):
        if vector is not None and not (np.isfinite(vector).all() and (vector >= 0).all()):
            raise ContractError(f"plugin {plugin!r}: powers of {name} are negative, NaN or Inf")


def check_sensitivity(answer: Sensitivity, model: Model, quantizable: frozenset[str], plugin: str) -> None:
    """Every quantizable tensor is answered, no other, with finite powers of the right shape."""
    missing, extra = quantizable - set(answer.tensors), set(answer.tensors) - set(model.tensors)
    if missing:
        raise ContractError(f"plugin {plugin!r} left out tensors: {listed(missing)}")
    if extra:
        raise ContractError(f"plugin {plugin!r} answered for tensors that the model does not have: {listed(extra)}")
    for name, tensor in answer.tensors.items():
        if not tensor.roles:
            raise ContractError(f"plugin {plugin!r}: no powers for {name}")
        for powers in tensor.roles:
            _check_powers(powers, model, name, plugin)


def check_costs(answer: CostTable, wanted: Mapping[str, Iterable[str]], plugin: str) -> None:
    """Every asked pair of tensor and type has a cost of 0 or more; infinity says that the tensor cannot have the type."""
    for name, qtypes in wanted.items():
        cells = answer.costs.get(name, {})
        missing = set(qtypes) - set(cells)
        if missing:
            raise ContractError(f"plugin {plugin!r} gave no cost for {name} at {listed(missing)}")
        for q in qtypes:
            if not cells[q].cost >= 0:  # NaN is not
                raise ContractError(f"plugin {plugin!r}: cost of {name} at {q} is {cells[q].cost}, expected a number of 0 or more")


def check_budget_answer(answer: Budget, plugin: str) -> None:
    """A whole number of bytes, and a label that can stand in file names."""
    if type(answer.data_bytes) is not int:
        raise ContractError(f"plugin {plugin!r} answered {answer.data_bytes!r} bytes, expected a whole number")
    if not _LABEL.fullmatch(answer.label):
        raise ContractError(
            f"plugin {plugin!r} answered the label {answer.label!r}; it stands in file names: letters, digits, . _ + - only"
        )


def check_types(answer: Allocation, model: Model, quantizable: frozenset[str], plugin: str) -> None:
    """Every quantizable tensor, and no other, has a type that its rows accept."""
    missing, extra = quantizable - set(answer.qtypes), set(answer.qtypes) - quantizable
    if missing or extra:
        raise ContractError(f"plugin {plugin!r} must answer each quantizable tensor and no other: {listed(missing | extra)}")
    for name, q in answer.qtypes.items():
        if not model.tensors[name].accepts(qtype(q)):
            raise ContractError(f"plugin {plugin!r} gave {name} {q}, which its rows of {model.tensors[name].n_in} cannot hold")


def check_kept(answer: Allocation, model: Model, n_bytes: int, budget_bytes: int | None, limits: Limits, plugin: str) -> None:
    """``n_bytes`` (computed by the core) are within the budget, and the limits are kept."""
    if budget_bytes is not None and n_bytes > budget_bytes:
        raise ContractError(f"plugin {plugin!r} answered {n_bytes:,} bytes, the budget is {budget_bytes:,}")
    if broken := limits.broken_by(model, answer.qtypes):
        raise ContractError(f"plugin {plugin!r} {broken}; name another solver")


def check_evaluations(answer: list[Evaluation], candidates: list[str], plugin: str) -> None:
    """One evaluation for each candidate, in order, with a KLD that is a number of 0 or more."""
    names = [evaluation.candidate for evaluation in answer]
    if names != candidates:
        raise ContractError(f"plugin {plugin!r} evaluated {names}, expected {candidates}")
    for evaluation in answer:
        if not (math.isfinite(evaluation.mean_kld) and evaluation.mean_kld > -1e-6 and evaluation.n_tokens > 0):
            raise ContractError(
                f"plugin {plugin!r}: mean KLD of {evaluation.candidate} is {evaluation.mean_kld} over {evaluation.n_tokens} tokens"
            )

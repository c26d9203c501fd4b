"""The solver ``clone``: gives this model the types of another file or recipe, and lowers some if the budget is too small.

If a tensor's rows cannot have its type, it gets the nearest type that fits. Remarks name every tensor that differs from the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import ConfigError, InfeasibleError, ModelFileError
from bitclass3_core.gguf.recipe import types_in_file
from bitclass3_core.knapsack.dual import lagrangian_dual, tables_of
from bitclass3_core.knapsack.improve import best_effort
from bitclass3_core.model import Model, TensorInfo, padded
from bitclass3_core.options import PluginOptions
from bitclass3_core.problem import Allocation, Choice, Group, Problem
from bitclass3_core.qtypes import menu, qtype

BITCLASS3_ANSWERS = "cdf501362a11"  # changes when the answers do

_SHOWN = 4


class Options(PluginOptions):
    """The file to take types from, and what to do if they take more than the budget."""

    file: Path | None = Field(None, description="a GGUF (any file of a split) or a tensor-type file of llama-quantize")
    over_budget: Literal["lower", "refuse"] = Field(
        "lower", description="if the types take more than the budget: lower those that cost least, or refuse"
    )


@hookimpl
def bitclass3_solve(problem: Problem, model: Model, options: Options) -> Allocation:
    """The file's types; remarks say what differs.

    Raises ModelFileError if the file does not name this model's tensors, InfeasibleError if ``over_budget`` is ``refuse`` and the types
    take more than the budget.
    """
    if options.file is None:
        raise ConfigError("clone needs a file to take types from; give --set solve.options.file=OTHER.gguf")
    names = [name for group in problem.groups for name in group.tensors]
    copied = _known(types_in_file(options.file, names), names, options.file)
    wanted = {group.name: _possible(group, copied, model) for group in problem.groups}
    too_much = sum(wanted[group.name].n_bytes for group in problem.groups) - problem.budget_bytes
    if too_much > 0:
        if options.over_budget == "refuse":
            raise InfeasibleError(
                f"the types of {options.file.name} take {too_much:,} bytes more than the budget; raise the target by as much, "
                "or let clone lower some: --set solve.options.over_budget=lower"
            )
        wanted = _lowered(problem, wanted)
    qtypes = {name: wanted[group.name].qtype for group in problem.groups for name in group.tensors}
    return Allocation(qtypes, "clone", note=f"types of {options.file.stem}", remarks=_remarks(copied, qtypes, options.file))


def _known(found: Mapping[str, str], names: list[str], file: Path) -> dict[str, str]:
    """The types of ``names``. Raises ModelFileError if one is missing."""
    missing = sorted(set(names) - set(found))
    if missing:
        more = f" and {len(missing) - 1} more of {len(names)} tensors" if len(missing) > 1 else ""
        what = "clone a file of a model with the same tensors" if file.suffix.lower() == ".gguf" else "add a line such as .*=q4_k"
        raise ModelFileError(f"{file} gives no type to {missing[0]}{more}; {what}")
    return {name: found[name] for name in names}


def _possible(group: Group, copied: Mapping[str, str], model: Model) -> Choice:
    """The group's copied type (the largest of its tensors), or the nearest that fits; a group with one choice keeps that."""
    if len(group.choices) == 1:
        return group.choices[0]
    infos = [model.tensors[name] for name in group.tensors]
    name = max((copied[info.name] for info in infos), key=lambda q: qtype(q).bpw)
    known = {choice.qtype: choice for choice in group.choices}
    if name not in known:
        name = _nearest(infos, name, known)
    n_bytes = sum(padded(info.n_bytes(qtype(name))) for info in infos)
    return known.get(name, Choice(name, n_bytes, 0.0))


def _nearest(infos: list[TensorInfo], wanted: str, known: Mapping[str, Choice]) -> str:
    """The writable type nearest in bits per weight that all rows accept; of equally near ones, one that has a cost."""
    possible = [q for q in (*menu("all"), qtype(infos[0].dtype)) if all(info.accepts(q) for info in infos)]
    bpw = qtype(wanted).bpw
    return min(possible, key=lambda q: (q.name != wanted, abs(q.bpw - bpw), q.name not in known, -q.bpw)).name


def _lowered(problem: Problem, wanted: Mapping[str, Choice]) -> dict[str, Choice]:
    """The cheapest choices within the budget of which none is larger than the wanted one."""
    groups = []
    for group in problem.groups:
        most = wanted[group.name]
        smaller = tuple(choice for choice in group.choices if choice.n_bytes <= most.n_bytes)
        groups.append(Group(group.name, group.tensors, smaller or (most,)))
    tables = tables_of(Problem(tuple(groups), problem.budget_bytes))
    picks = best_effort(tables, lagrangian_dual(tables)).tolist()
    return {group.name: group.choices[pick] for group, pick in zip(groups, picks, strict=True)}


def _remarks(copied: Mapping[str, str], qtypes: Mapping[str, str], file: Path) -> tuple[str, ...]:
    changed = [f"{name} is {q} instead of {copied[name]}" for name, q in sorted(qtypes.items()) if q != copied[name]]
    if not changed:
        return ()
    more = f" and {len(changed) - _SHOWN} more (allocation.json has all types)" if len(changed) > _SHOWN else ""
    return (f"clone: {len(changed)} of {len(qtypes)} tensors differ from {file.name}: {', '.join(changed[:_SHOWN])}{more}",)

"""Questions to the budgets and the solvers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.model import Architecture, padded
from bitclass3_core.problem import Allocation, Choice, Group, Problem
from bitclass3_core.qtypes import menu
from questions.asking import LLAMA, QWEN35, Answer, ask, digest, made_up, model_of, spread

_TARGETS: list[Mapping[str, Any]] = [
    {"target_bpw": 4.8},
    {"target_size": "5MiB"},
    {"match_stock": "Q4_K_M"},
    {"match_file": LLAMA / "model-bf16.gguf"},
    {"fit_vram": "24MiB", "vram_reserve": "1MiB", "ctx": 512},
]


def of_budgets(plugin: str, questions: Sequence[Mapping[str, Any]], level: str | None = None) -> Answer:
    """Bytes and label of each budget."""
    model = model_of(QWEN35)
    arguments = {"model": model, "architecture": Architecture("qwen35", quantizable_tensors(model)), "level": level}
    answers = [ask(plugin, "budget", values, **arguments, sensitivity=made_up(model)) for values in questions]
    return {answer.label: answer.data_bytes for answer in answers}


def problem() -> Problem:
    """Every tensor of the example a group, costs that fall fourfold a bit, and two fifths of the bytes that there are to spend."""
    groups = []
    for i, name in enumerate(sorted(quantizable_tensors(model_of(QWEN35)))):
        info = model_of(QWEN35).tensors[name]
        types = sorted((q for q in menu("default") if info.accepts(q)), key=lambda q: q.bpw)
        level = float(spread(i + 1)[i]) * info.n_params
        choices = [Choice(q.name, padded(info.n_bytes(q)), level * 4.0**-q.bpw) for q in types]
        sizes = [choice.n_bytes for choice in choices]
        groups.append(
            Group(name, (name,), tuple(c for c, n_bytes in zip(choices, sizes, strict=True) if sizes.count(n_bytes) == 1))
        )
    whole = Problem(tuple(groups), 0)
    return replace(whole, budget_bytes=whole.smallest_bytes + int(0.4 * (whole.largest_bytes - whole.smallest_bytes)))


def of_solution(plugin: str, values: Mapping[str, Any] | None = None) -> Answer:
    """How often each type is given, a digest of the allocation, and its cost where it is of the choices."""
    given = problem()
    architecture = Architecture("qwen35", frozenset(name for group in given.groups for name in group.tensors))
    answer: Allocation = ask(plugin, "solve", values, problem=given, model=model_of(QWEN35), architecture=architecture)
    types = list(answer.qtypes.values())
    costs = {(group.name, choice.qtype): choice.cost for group in given.groups for choice in group.choices}
    counts = {name: types.count(name) for name in sorted(set(types))}
    return {
        "types": counts,
        "allocation": digest(answer.qtypes),
        "cost": sum(costs.get(cell, 0.0) for cell in answer.qtypes.items()),
    }


def of_clone(folder: Path) -> Answer:
    """The types of a recipe that is too large."""
    recipe = folder / "other.tensor_types.txt"
    recipe.write_text("ffn=q6_k\n.*=q5_k\n", encoding="utf-8")
    return of_solution("clone", {"file": recipe})


QUESTIONS: dict[str, Callable[[Path], Answer]] = {
    "fixed": lambda _: of_budgets("fixed", _TARGETS),
    "bit-classes": lambda _: {level: of_budgets("bit-classes", [{}], level) for level in ("Q6_K", "Q4_K_M", "Q3_K_S")},
    "ilp": lambda _: of_solution("ilp"),
    "lagrangian": lambda _: of_solution("lagrangian"),
    "greedy": lambda _: of_solution("greedy"),
    "stock": lambda _: {str(ftype): of_solution("stock", {"ftype": ftype}) for ftype in ("Q4_K_M", "IQ3_XS", None)},
    "clone": of_clone,
}

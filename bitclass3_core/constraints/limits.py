"""Limits: what all rules together mean for each tensor; which rules contradict each other, and which make a budget too small."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bitclass3_core.constraints.rules import Rule, require_fit
from bitclass3_core.errors import ConfigError
from bitclass3_core.model import Model, padded
from bitclass3_core.qtypes import QType, qtype


@dataclass(frozen=True, slots=True)
class Gpu:
    """The tensors that lie on the GPU, those that are never quantized included, and how many bytes they may take together."""

    tensors: frozenset[str]
    budget_bytes: int
    label: str = ""

    def bytes_of(self, model: Model, qtypes: Mapping[str, str]) -> int:
        """Bytes on the GPU with these types, alignment included; a tensor without a type keeps its source type."""
        infos = (model.tensors[name] for name in self.tensors)
        return sum(padded(info.n_bytes(qtype(qtypes.get(info.name, info.dtype)))) for info in infos)


@dataclass(frozen=True, slots=True)
class Limits:
    """What all rules mean for each tensor.

    ``pins`` has the type that a tensor must have, ``floors`` the smallest type (by bpw) that it may have, ``menus`` the types to choose
    from instead of the run's menu. The tensors of each of ``groups`` share a type: all of them have the pins and floors of each.
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    floors: Mapping[str, QType] = field(default_factory=dict)
    menus: Mapping[str, tuple[QType, ...]] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    rules: tuple[Rule, ...] = ()
    gpu: Gpu | None = None

    def partition(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """``names`` in sets that share a type, most of them of one tensor, sorted by their first name."""
        grouped = {name for group in self.groups for name in group}
        return sorted([*self.groups, *((name,) for name in names if name not in grouped)])

    def broken_by(self, model: Model, qtypes: Mapping[str, str]) -> str:
        """What an allocation does against the limits, in words that follow the name of its plugin; empty if it keeps them all.

        A tensor's source type is always above its floor and on its menu. So is its pin. Its floor is always on its menu.
        """
        for name, q in qtypes.items():
            if name in self.pins and q != self.pins[name]:
                return f"gave {name} {q}, but it is pinned to {self.pins[name]}"
            if name in self.pins or q == model.tensors[name].dtype:
                continue
            floor = self.floors.get(name)
            if floor is not None and qtype(q).bpw < floor.bpw:
                return f"gave {name} {q}, but its floor is {floor.name}"
            if qtype(q) not in (*self.menus.get(name, (qtype(q),)), floor):
                return f"gave {name} {q}, which is not on its menu"
        for first, *others in self.groups:
            if other := next((name for name in others if qtypes[name] != qtypes[first]), None):
                return f"gave different types to {first} and {other}, which share one"
        if self.gpu is not None and (on_gpu := self.gpu.bytes_of(model, qtypes)) > self.gpu.budget_bytes:
            return f"answered {on_gpu:,} bytes on the GPU, its budget is {self.gpu.budget_bytes:,}"
        return ""

    def described(self) -> list[str]:
        """Each constraint in words for people, for run.json and the model card."""
        lines = [rule.described() for rule in self.rules]
        if self.gpu is not None:
            lines.append(f"GPU budget {self.gpu.label} for {len(self.gpu.tensors)} tensors")
        return lines


def limits_of(model: Model, rules: Iterable[Rule], gpu: Gpu | None = None) -> Limits:
    """The limits that all rules together make. Raises ConfigError if rules contradict each other."""
    rules = tuple(rules)
    groups = _joined(names for rule in rules if rule.kind == "group" for names in rule.tensors)
    together = {name: group for group in groups for name in group}
    pinned = _pinned(model, rules, together)
    floors = _floored(rules, together)
    menus = _menus(rules)
    for name, (floor, rule) in floors.items():
        if name in pinned and pinned[name][0].bpw < floor.bpw:
            raise ConfigError(f"{pinned[name][1]} and {rule} contradict each other for {name}; loosen one")
        if name not in pinned and name in menus and all(q.bpw < floor.bpw for q in menus[name]):
            offered = ", ".join(q.name for q in menus[name])
            raise ConfigError(
                f"{rule} leaves {name} no type of its menu ({offered}); add a larger type to the menu or lower the floor"
            )
    return Limits(
        {name: q.name for name, (q, _) in pinned.items()}, {name: q for name, (q, _) in floors.items()}, menus, groups, rules, gpu
    )


def _joined(sets: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The sets, after joining those that have a tensor in common: all tensors of both then share a type."""
    joined: list[set[str]] = []
    for names in sets:
        touching = [other for other in joined if not other.isdisjoint(names)]
        joined = [other for other in joined if other.isdisjoint(names)]
        joined.append(set(names).union(*touching))
    return tuple(sorted(tuple(sorted(names)) for names in joined))


_Owned = dict[str, tuple[QType, Rule]]  # by tensor: the type of a pin or floor, and the rule that it comes from


def _pinned(model: Model, rules: tuple[Rule, ...], together: Mapping[str, tuple[str, ...]]) -> _Owned:
    pinned: _Owned = {}
    for rule in (rule for rule in rules if rule.kind == "pin"):
        (q,) = rule.qtypes
        for name in rule.matched:
            for member in together.get(name, (name,)):
                owner = pinned.setdefault(member, (q, rule))
                if owner[0] != q:
                    both = member in owner[1].matched and member == name
                    through = "" if both else " (a group makes it share a type)"
                    raise ConfigError(
                        f"{owner[1]} and {rule} contradict each other for {member}{through}; make the patterns exclude each other"
                    )
                require_fit(model, f"{rule} for {name}, which shares its type", member, q)
    return pinned


def _floored(rules: tuple[Rule, ...], together: Mapping[str, tuple[str, ...]]) -> _Owned:
    """The highest floor of each tensor; a floor holds for all tensors that share a type."""
    floors: _Owned = {}
    for rule in (rule for rule in rules if rule.kind == "floor"):
        (q,) = rule.qtypes
        for name in rule.matched:
            for member in together.get(name, (name,)):
                if member not in floors or floors[member][0].bpw < q.bpw:
                    floors[member] = (q, rule)
    return floors


def _menus(rules: tuple[Rule, ...]) -> dict[str, tuple[QType, ...]]:
    """The types of each tensor that are on every menu that matches it."""
    menus: dict[str, tuple[QType, ...]] = {}
    for rule in (rule for rule in rules if rule.kind == "menu"):
        for name in rule.matched:
            left = tuple(q for q in menus.get(name, rule.qtypes) if q in rule.qtypes)
            if not left:
                raise ConfigError(
                    f"{rule} and another menu have no type in common for {name}; make the patterns exclude each other"
                )
            menus[name] = left
    return menus


def binding(rules: tuple[Rule, ...], asked: int, smallest: int, smallest_with: Callable[[tuple[Rule, ...]], int]) -> str:
    """Words that name the rules that make ``smallest``, the least bytes possible, exceed the bytes ``asked``.

    Each rule is left out in turn, and ``smallest_with`` gives the least bytes with the others. Empty if no rule matters.
    """
    without = {rule: smallest_with(tuple(other for other in rules if other is not rule)) for rule in rules}
    decisive = [rule for rule, n_bytes in without.items() if n_bytes <= asked]
    if decisive:
        return "; what binds: " + " or ".join(f"{rule} (without it {without[rule]:,})" for rule in decisive)
    heavy = sorted((rule for rule in rules if without[rule] < smallest), key=lambda rule: without[rule])
    if not heavy:
        return ""
    free = smallest_with(())
    together = (
        f"without all constraints {free:,}" if free > asked else f"no single one does, without all constraints it is {free:,}"
    )
    return "; what binds: " + ", ".join(f"{rule} ({smallest - without[rule]:,} bytes)" for rule in heavy[:4]) + f"; {together}"

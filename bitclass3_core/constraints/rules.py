"""Rules: the pins, floors, menus and groups that a user gave, each matched against the model and checked by itself."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bitclass3_core.errors import ConfigError
from bitclass3_core.model import Architecture, Model
from bitclass3_core.qtypes import MENUS, QType, menu

# tensors that the back ends multiply with the same input, by name: llama.cpp's fused kernels want them to share a type
NAMED_GROUPS = {
    "gate_up": r"^(blk\.\d+)\.ffn_(?:gate|up)(_exps|_shexp|_chexps)?\.weight$",
    "qkv": r"^(blk\.\d+)\.attn_[qkv]\.weight$",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One line that the user gave: its kind (``pin``, ``floor``, ``menu``, ``group``), pattern, types, and the sets of its tensors.

    A pin and a floor have one type, a group has none. A group has one set of tensors for each value that its pattern captures, the
    other kinds have one set.
    """

    kind: str
    pattern: str
    qtypes: tuple[QType, ...]
    tensors: tuple[tuple[str, ...], ...]
    label: str = ""

    @property
    def matched(self) -> tuple[str, ...]:
        """All tensors of the rule."""
        return tuple(name for names in self.tensors for name in names)

    def __str__(self) -> str:
        """The rule as it stands in messages, run.json and the model card."""
        if self.kind == "group":
            return f"group {self.pattern!r}"
        sign = "= at least" if self.kind == "floor" else "="
        return f"{self.kind} {self.pattern!r} {sign} {self.label or self.qtypes[0].name}"

    def described(self) -> str:
        """The rule, with its number of tensors."""
        n = len(self.matched)
        sets = f" in {len(self.tensors)} set{'s' * (len(self.tensors) != 1)}" if self.kind == "group" else ""
        return f"{self} ({n} tensor{'s' * (n != 1)}{sets})"


def compiled(kind: str, pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression. Raises ConfigError if it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{kind} {pattern!r} is no regular expression ({error}); escape dots as \\\\.") from None


def matching(kind: str, pattern: str, names: Iterable[str]) -> tuple[str, ...]:
    """The tensors that a pattern (searched, not anchored) matches, sorted. Raises ConfigError if it matches none."""
    names = sorted(names)
    matcher = compiled(kind, pattern)
    matched = tuple(name for name in names if matcher.search(name))
    if not matched:
        raise ConfigError(
            f"{kind} {pattern!r} matches none of the {len(names)} quantizable tensors; look at them with bitclass3 plan"
        )
    return matched


def rules_of(
    model: Model,
    architecture: Architecture,
    pins: Mapping[str, str] | None = None,
    floors: Mapping[str, str] | None = None,
    menus: Mapping[str, str | list[str]] | None = None,
    groups: Sequence[str] = (),
) -> tuple[Rule, ...]:
    """The rules of a configuration, in its order.

    Raises ConfigError for a bad pattern, an unknown type or menu, a pattern that matches no quantizable tensor, a pin or a menu without
    a type that fits the rows of its tensors, and a group without two tensors that would share a type.
    """
    return (
        *_pins(model, architecture, pins or {}),
        *_floors(architecture, floors or {}),
        *_menus(model, architecture, menus or {}),
        *(_group(architecture, pattern) for pattern in groups),
    )


def _pins(model: Model, architecture: Architecture, pins: Mapping[str, str]) -> Iterator[Rule]:
    for pattern, name in pins.items():
        matcher = compiled("pin", pattern).pattern
        (q,) = menu([name])
        matched = matching("pin", matcher, architecture.quantizable)
        for tensor in matched:
            require_fit(model, f"pin {pattern!r}", tensor, q)
        yield Rule("pin", pattern, (q,), (matched,))


def require_fit(model: Model, rule: str, tensor: str, q: QType) -> None:
    """Raise ConfigError if the rows of a tensor cannot have that type."""
    info = model.tensors[tensor]
    if not info.accepts(q):
        raise ConfigError(f"{rule}: {q.name} does not fit the rows of {tensor} ({info.n_in} is no multiple of {q.block_size})")


def _floors(architecture: Architecture, floors: Mapping[str, str]) -> Iterator[Rule]:
    for pattern, name in floors.items():
        (q,) = menu([name])
        yield Rule("floor", pattern, (q,), (matching("floor", pattern, architecture.quantizable),))


def _menus(model: Model, architecture: Architecture, menus: Mapping[str, str | list[str]]) -> Iterator[Rule]:
    for pattern, names in menus.items():
        qtypes = menu(names)
        label = names if isinstance(names, str) and names in MENUS else ", ".join(q.name for q in qtypes)
        matched = matching("menu", pattern, architecture.quantizable)
        for tensor in matched:
            if not any(model.tensors[tensor].accepts(q) for q in qtypes):
                raise ConfigError(
                    f"menu {pattern!r}: none of {label} fits the rows of {tensor} ({model.tensors[tensor].n_in} weights); add types with blocks of 32"
                )
        yield Rule("menu", pattern, qtypes, (matched,), label)


def _group(architecture: Architecture, pattern: str) -> Rule:
    """Tensors with equal captures share a type; a pattern without captures makes one set of all that it matches."""
    matcher = compiled("group", NAMED_GROUPS.get(pattern, pattern))
    sets: dict[tuple[str | None, ...], list[str]] = {}
    for name in sorted(architecture.quantizable):
        if found := matcher.search(name):
            sets.setdefault(found.groups(), []).append(name)
    several = tuple(tuple(names) for names in sets.values() if len(names) > 1)
    if not several:
        n = len(architecture.quantizable)
        raise ConfigError(
            f"group {pattern!r} matches no two of the {n} quantizable tensors that would share a type; look at them with bitclass3 plan"
        )
    return Rule("group", pattern, (), several)

"""Flags that constrain tensors: ``--pin``, ``--floor``, ``--menu``, ``--group``, ``--gpu-budget``, as paths into the configuration."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from bitclass3_core.errors import ConfigError

Menu = Annotated[
    list[str] | None,
    typer.Option(
        "--menu", help="types to choose from: default, k, cuda, cpu, metal, vulkan, all or Q4_K,Q6_K; REGEX=MENU for some tensors"
    ),
]
Pin = Annotated[list[str] | None, typer.Option("--pin", help="REGEX=TYPE: the type of the tensors that match; repeatable")]
Floor = Annotated[list[str] | None, typer.Option("--floor", help="REGEX=TYPE: at least that type; repeatable")]
Group = Annotated[
    list[str] | None, typer.Option("--group", help="tensors that share a type: gate_up, qkv, or a REGEX with captures; repeatable")
]
GpuBudget = Annotated[str | None, typer.Option("--gpu-budget", help="bytes of the tensors on the GPU: 24GiB")]
GpuTensors = Annotated[
    list[str] | None, typer.Option("--gpu-tensors", help="REGEX: what lies on the GPU; default: all but experts; repeatable")
]


def limit_flags(
    menu: Sequence[str] | None,
    pin: Sequence[str] | None,
    floor: Sequence[str] | None,
    group: Sequence[str] | None,
    gpu_budget: str | None,
    gpu_tensors: Sequence[str] | None,
) -> dict[tuple[str, ...], Any]:
    """What was given, as paths into the configuration; pins, floors and menus of a pipeline file stay beside them."""
    flags: dict[tuple[str, ...], Any] = {}
    for text in menu or ():
        pattern, _, names = text.rpartition("=")
        path = ("qtypes", "menus", pattern) if pattern else ("qtypes", "menu")
        _put_once(flags, path, _menu_value(names), "--menu", text)
    for flag, key, texts in (("--pin", "pins", pin), ("--floor", "floors", floor)):
        for text in texts or ():
            pattern, _, name = text.rpartition("=")
            if not pattern or not name:
                raise ConfigError(f"{flag} {text!r} is not understood; write it like {flag} 'ffn_down=Q6_K'")
            _put_once(flags, ("qtypes", key, pattern), name, flag, text)
    if group:
        flags["qtypes", "groups"] = list(group)
    if gpu_budget is not None:
        flags["gpu", "budget"] = gpu_budget
    if gpu_tensors:
        flags["gpu", "tensors"] = list(gpu_tensors)
    return flags


def _menu_value(names: str) -> str | list[str]:
    """A menu's name, or a list of types."""
    from bitclass3_core.qtypes import WRITABLE_QTYPES

    listed = [name.strip() for name in names.split(",") if name.strip()]
    return listed if len(listed) != 1 or listed[0].upper() in WRITABLE_QTYPES else listed[0]


def _put_once(flags: dict[tuple[str, ...], Any], path: tuple[str, ...], value: Any, flag: str, text: str) -> None:
    if flags.setdefault(path, value) != value:
        raise ConfigError(f"{flag} {text!r} contradicts an earlier {flag}; give one of them")

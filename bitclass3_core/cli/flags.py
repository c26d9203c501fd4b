"""What a flag is: it is stated once, with the configuration key that it sets, and commands take flags in groups."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Keys = dict[tuple[str, ...], Any]  # values by path into the configuration: ("budget", "level")
Command = Callable[..., None]

PipelineFile = Annotated[Path | None, typer.Argument(help="pipeline file (TOML); flags beat it", show_default=False)]


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that were given: configuration ``keys`` with their values, and what the command itself asks for."""

    keys: Keys
    plugins: Sequence[str] = ()
    settings: Sequence[str] = ()
    json: bool = False
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of the command line.

    ``sets`` says what takes its value: a path into the configuration, a function that makes such paths with their values, or the
    name of a field of ``Flags``.
    """

    names: str
    type: Any
    help: str
    sets: tuple[str, ...] | str | Callable[[Any], Keys]
    default: Any = None
    min: int | None = None

    @property
    def name(self) -> str:
        """``target_bpw`` for ``--target-bpw``."""
        return self.names.partition("/")[0].removeprefix("--").replace("-", "_")

    def parameter(self, panel: str) -> inspect.Parameter:
        """The parameter that typer makes an option of, shown in ``panel`` of the help."""
        option = typer.Option(self.names, help=self.help, min=self.min, rich_help_panel=panel)
        value: Any = self.type if self.default is not None else self.type | None
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=self.default, annotation=Annotated[value, option]
        )

    def keys(self, value: Any) -> Keys:
        """The configuration keys that ``value`` sets; none if the flag was not given. Raises ConfigError for a value that is malformed."""
        if isinstance(self.sets, str) or value in (self.default, []):
            return {}
        return self.sets(value) if callable(self.sets) else {self.sets: value}


@dataclass(frozen=True, slots=True)
class Group:
    """Flags that stand together in the help."""

    title: str
    flags: tuple[Flag, ...]

    def only(self, *names: str, **helps: str) -> "Group":
        """The group with the flags of these names alone; those named with a text have it as their help."""
        known = {flag.name: flag for flag in self.flags}
        named = {**{name: known[name].help for name in names}, **helps}
        return Group(self.title, tuple(replace(known[name], help=text) for name, text in named.items()))

    def keys(self, **values: Any) -> Keys:
        """The configuration keys that these values set, by name of the flag."""
        return {path: value for flag in self.flags for path, value in flag.keys(values.get(flag.name, flag.default)).items()}


def with_flags(*groups: Group) -> Callable[[Command], Command]:
    """Give a command the flags of ``groups``. It gets ``Flags`` as its first argument, then its own arguments and flags."""

    def decorated(command: Command) -> Command:
        @wraps(command)
        def called(*arguments: Any, **values: Any) -> None:
            command(_taken(groups, values), *arguments, **values)

        _, *own = inspect.signature(command).parameters.values()
        parameters = [*own, *(flag.parameter(group.title) for group in groups for flag in group.flags)]
        vars(called)["__signature__"] = inspect.Signature(parameters)
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorated


def _taken(groups: Sequence[Group], values: dict[str, Any]) -> Flags:
    """The groups' flags, taken out of ``values``; the command's own stay there."""
    keys: Keys = {}
    fields: dict[str, Any] = {}
    for flag in (flag for group in groups for flag in group.flags):
        value = values.pop(flag.name, flag.default)
        keys |= flag.keys(value)
        if isinstance(flag.sets, str) and value is not None:
            fields[flag.sets] = value
    return Flags(keys, **fields)

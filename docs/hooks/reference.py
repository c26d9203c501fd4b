"""The reference, from the code itself: hooks, types, command line, pipeline file, plugins, errors, as Markdown and JSON schema."""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from bitclass3_core import errors, hookspecs
from bitclass3_core.plugin.manager import GROUP, Plugin, installed, load_plugin
from bitclass3_core.plugin.stage_table import STAGES
from bitclass3_core.run_config import RunConfig

TYPES = (
    *("qtypes.QType", "model.TensorInfo", "model.Model", "model.Place", "model.Architecture", "corpus.Document", "corpus.Corpus"),
    *("sensitivity.Powers", "sensitivity.TensorSensitivity", "sensitivity.Sensitivity", "costs.Cost", "costs.CostTable"),
    *("layout.Budget", "problem.Choice", "problem.Group", "problem.Problem", "problem.Proof", "problem.Allocation"),
    *("evaluation.Evaluation", "results.Candidate", "results.Run", "progress.Progress", "plugin.at_work.AtWork"),
)


def _text(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "")


def _type_name(annotation: Any) -> str:
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if not isinstance(annotation, (str, type)) or getattr(annotation, "__args__", None):
        name = str(annotation)
    return re.sub(r"\b(?:[a-z_0-9]+\.)+(?=[A-Za-z])", "", str(name)).replace("|", "\\|")


def signature(stage: str) -> str:
    """``bitclass3_solve(problem, model, architecture, options)``: a hook with its arguments, as in hookspecs."""
    function = getattr(hookspecs, f"{GROUP}_{stage}")
    return f"{GROUP}_{stage}({', '.join(inspect.signature(function).parameters)})"


def hooks() -> str:
    """A heading for every hook, its arguments with their types, what it returns and must keep."""
    from bitclass3_core.testing import SUITES

    parts = []
    for stage in STAGES:
        function = getattr(hookspecs, f"{GROUP}_{stage}")
        about = inspect.signature(function)
        rows = [f"| `{name}` | `{_type_name(p.annotation)}` |" for name, p in about.parameters.items()]
        answer = _type_name(about.return_annotation)
        promises = [
            f"- `{name}`: {_text(getattr(SUITES[stage], name).__doc__)}" for name in vars(SUITES[stage]) if name.startswith("test_")
        ]
        built_in = ", ".join(f"`{plugin.name}`" for plugin in built_ins() if stage in plugin.stages)
        table = "| argument | type |\n|---|---|\n" + "\n".join(rows)
        parts.append(
            f"## `{signature(stage)}`\n\n{_text(function.__doc__)}\n\nReturns `{answer}`. Built in: {built_in}.\n\n{table}\n\n"
            f"What `{SUITES[stage].__name__}` holds it to:\n\n" + "\n".join(promises)
        )
    return "\n\n".join(parts)


@cache
def built_ins() -> tuple[Plugin, ...]:
    """bitclass3's own plugins, loaded once."""
    own = [name for name, point in installed().items() if point.dist is not None and point.dist.name == "bitclass3"]
    return tuple(load_plugin(name) for name in own)


def types() -> str:
    """Every type that hooks speak of: what it holds."""
    parts = []
    for path in TYPES:
        module, name = path.rsplit(".", 1)
        cls = getattr(importlib.import_module(f"bitclass3_core.{module}"), name)
        members = fields(cls) if is_dataclass(cls) else ()
        rows = "\n".join(f"| `{field.name}` | `{_type_name(field.type)}` |" for field in members)
        table = f"\n\n| field | type |\n|---|---|\n{rows}" if rows else ""
        methods = [
            f"- `{key}`: {_text(member.__doc__ or member.fget.__doc__ if isinstance(member, property) else member.__doc__)}"
            for key, member in vars(cls).items()
            if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)) and member.__doc__
        ]
        listed = "\n\n" + "\n".join(methods) if methods else ""
        parts.append(f"## {name}\n\n`from bitclass3_core.{module} import {name}`\n\n{_text(cls.__doc__)}{table}{listed}")
    return "\n\n".join(parts)


def commands() -> Iterator[tuple[str, Any]]:
    """(name, click command) of every command: ``run``, ``plugins new``."""
    import typer

    from bitclass3_core.cli.app import app

    def walk(prefix: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(f"{prefix}{name} ", sub)
        if not getattr(command, "commands", None):
            yield prefix.strip(), command

    yield from walk("", typer.main.get_command(app))


def cli() -> str:
    """Every command with its arguments and flags."""
    parts = []
    for name, command in commands():
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            is_flag = parameter.param_type_name == "option"
            called = ", ".join(f"`{flag}`" for flag in parameter.opts) if is_flag else f"`{parameter.name.upper()}`"
            rows.append(f"| {called} | {(parameter.help or '').replace('|', chr(92) + '|')} |")
        table = "| | |\n|---|---|\n" + "\n".join(rows) if rows else "No flags."
        parts.append(f"## `bitclass3 {name}`\n\n{_text(command.help)}\n\n{table}")
    return "\n\n".join(parts)


def pipeline_keys() -> Iterator[tuple[str, str, Any]]:
    """(key, what it is, default) of every key of the pipeline file, dotted."""
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            yield name, field.description or "", field.get_default(call_default_factory=True)
            continue
        for key, inner in section.model_fields.items():
            default = getattr(field.default, key, None)
            yield f"{name}.{key}", inner.description or "", default


def _shown(value: Any) -> str:
    return "" if value in (None, [], {}) else f"`{json.dumps(value, default=str)}`"


def pipeline_file() -> str:
    """Every table of the pipeline file with its keys, what they are and their defaults."""
    rows = list(pipeline_keys())
    parts = []
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            inner = [row for row in rows if row[0].startswith(f"{name}.")]
            table = "\n".join(f"| `{key.split('.')[1]}` | {about} | {_shown(default)} |" for key, about, default in inner)
            parts.append(f"## `[{name}]`\n\n{_text(section.__doc__)}\n\n| key | | default |\n|---|---|---|\n{table}")
    top = "\n".join(f"| `{key}` | {about} | {_shown(default)} |" for key, about, default in rows if "." not in key)
    return f"## Before any table\n\n| key | | default |\n|---|---|---|\n{top}\n\n" + "\n\n".join(parts)


def plugins() -> str:
    """Every built-in plugin: stage, what it does, options."""
    parts = []
    for stage in STAGES:
        parts.append(f"## {stage}")
        for plugin in (plugin for plugin in built_ins() if stage in plugin.stages):
            options = plugin.options_class(stage)
            rows = "\n".join(
                f"| `{key}` | {field.description or ''} | {_shown(field.get_default(call_default_factory=True))} |"
                for key, field in (options.model_fields if options else {}).items()
            )
            about = _text(plugin.module.__doc__).split("\n\n")[0].replace("\n", " ")
            table = f"\n\n| option | | default |\n|---|---|---|\n{rows}" if rows else "\n\nNo options."
            parts.append(f"### `{plugin.name}`\n\n{about}{table}")
    return "\n\n".join(parts)


def error_classes() -> list[type[errors.Bitclass3Error]]:
    """Every class of error that is raised on purpose."""
    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Bitclass3Error)]


def error_table() -> str:
    """The classes of errors with their exit codes."""
    rows = "\n".join(f"| `{cls.__name__}` | {cls.exit_code} | {_text(cls.__doc__)} |" for cls in error_classes())
    return f"| class | exit code | |\n|---|---|---|\n{rows}"


# by the name that a page asks for them under
PARTS: dict[str, Callable[[], str]] = {
    "hooks": hooks,
    "types": types,
    "cli": cli,
    "pipeline-file": pipeline_file,
    "plugins": plugins,
    "errors": error_table,
}

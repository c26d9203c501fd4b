"""``bitclass3 plugins``: what is installed, what one plugin takes, and a new one from a template."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitclass3_core.cli.flags import Flags, with_flags
from bitclass3_core.cli.groups import OUTPUT

app = typer.Typer(no_args_is_help=True, help="List the installed plugins, show one with its options, or write a new one.")


@app.command("list")
@with_flags(OUTPUT.only("json"))
def list_plugins(flags: Flags) -> None:
    """List the installed plugins; nothing is imported."""
    from bitclass3_core.runs.plugin_list import installed_plugins

    rows = installed_plugins()
    if flags.json:
        print(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['module']:<26}  {row['package']}")


@app.command("show")
@with_flags(OUTPUT.only("json"))
def show(flags: Flags, name: Annotated[str, typer.Argument(help="plugin name or .py file")]) -> None:
    """Show a plugin: its stages, version, options with their defaults."""
    from bitclass3_core.runs.plugin_list import plugin_values

    values = plugin_values(name)
    if flags.json:
        print(json.dumps(values, indent=1, default=str))
        return
    print(f"{values['name']} {values['version']}\n\n{values['about']}\n")
    for stage, fields in values["stages"].items():
        print(f"[{stage}] plugin = {values['name']!r}" + ("" if fields else "   (no options)"))
        for key, field in fields.items():
            print(f"  options.{key} = {field['default']!r}   ({field['type']})  {field['help']}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="name of the plugin: small letters, digits, dashes")],
    stage: Annotated[str, typer.Option(help="architecture, estimate, measure, budget, solve, export, evaluate, report")] = "solve",
    out: Annotated[Path, typer.Option(help="folder in which the package's folder is made")] = Path(),
) -> None:
    """Write a package that is a working plugin, with a test that runs its stage's conformance suite."""
    from bitclass3_core.runs.new_plugin import write_package

    folder = write_package(name, stage, out)
    print(f"{folder}/ is a plugin for [{stage}]; next:\n")
    print(f"    pip install -e '{folder}[dev]'\n    pytest {folder}\n    bitclass3 run ... --plugin {name}")

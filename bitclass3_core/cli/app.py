"""``bitclass3``: the list of its commands, and how errors become one line and an exit code. Commands import heavy modules themselves."""

import sys
import traceback

import typer

from bitclass3_core.cli import plugins, toolchain
from bitclass3_core.cli.compare import compare
from bitclass3_core.cli.doctor import doctor
from bitclass3_core.cli.ladder import ladder
from bitclass3_core.cli.plan import plan
from bitclass3_core.cli.publish import publish
from bitclass3_core.cli.recipe import recipe
from bitclass3_core.cli.run import run
from bitclass3_core.cli.schema import schema
from bitclass3_core.errors import Bitclass3Error, CrashError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a language model into a mixed-precision GGUF: Hessian sensitivity, an exact solver, measured KLD.",
)
for command in (run, plan, ladder, compare, recipe, publish, schema, doctor):
    app.command()(command)
app.add_typer(plugins.app, name="plugins")
app.add_typer(toolchain.app, name="toolchain")


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr, with the exit code of their kind."""
    try:
        app()
    except Bitclass3Error as error:
        if "--verbose" in sys.argv:
            raise
        if isinstance(error, CrashError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)  # a plugin's author needs it, and may not be there to ask again
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

"""Flags of the command line: what they set, and that a command gets no more than was given."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bitclass3_core.cli import groups
from bitclass3_core.cli.flags import Flag, Flags, Group, with_flags
from bitclass3_core.run_config import RunConfig

GROUPS = [group for group in vars(groups).values() if isinstance(group, Group)]
FLAGS = [flag for group in GROUPS for flag in group.flags]


def given(*arguments: str) -> tuple[Flags, str]:
    """What a command with all groups and a flag of its own gets for these arguments."""
    taken = []

    @with_flags(*GROUPS)
    def command(flags: Flags, own: str = "default") -> None:
        """Do nothing."""
        taken.append((flags, own))

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return taken[0]


def test_nothing_given_sets_nothing() -> None:
    assert given() == (Flags({}), "default")


def test_flags_set_keys_fields_and_the_command_s_own_arguments() -> None:
    flags, own = given(
        "--target-bpw", "4.8", "--corpus", "a.txt", "--corpus", "b.txt", "--own", "x", "--json", "--set", "threads=1"
    )
    assert flags.keys == {("budget", "options", "target_bpw"): 4.8, ("corpus", "calibration"): [Path("a.txt"), Path("b.txt")]}
    assert (flags.json, flags.quiet, list(flags.settings), list(flags.plugins), own) == (True, False, ["threads=1"], [], "x")


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["--no-select"], {("select", "enabled"): False}),
        (["--select"], {("select", "enabled"): True}),
        (["--threads", "0"], {("threads",): 0}),
        (["--allow-quantized-source"], {("model", "allow_quantized_source"): True}),
        (["--model", "org/name"], {("model", "hf"): Path("org/name")}),
        (["--model", "m.gguf"], {("model", "gguf"): Path("m.gguf")}),
        (["--gguf", "b.gguf", "--model", "m.gguf"], {("model", "gguf"): Path("b.gguf")}),
        (["--baseline", "None"], {("baseline", "plugin"): "none"}),
        (["--baseline", "Q4_K_M"], {("baseline", "options", "ftype"): "Q4_K_M"}),
    ],
)
def test_values_of_flags(arguments: list[str], keys: dict[tuple[str, ...], object]) -> None:
    assert given(*arguments)[0].keys == keys


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if isinstance(flag.sets, tuple)], ids=lambda flag: flag.name)
def test_a_flag_sets_a_key_that_there_is(flag: Flag) -> None:
    section, *key = flag.sets
    assert section in RunConfig.model_fields
    assert not key or key[0] in RunConfig.model_fields[section].annotation.model_fields


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if isinstance(flag.sets, str)], ids=lambda flag: flag.name)
def test_a_flag_for_the_command_has_a_field(flag: Flag) -> None:
    assert hasattr(Flags({}), flag.sets)


def test_a_part_of_a_group_may_have_another_help() -> None:
    part = groups.RUN.only("threads", out="folder of the tables")
    assert [(flag.name, flag.help) for flag in part.flags] == [
        ("threads", "threads of the kernels; 0: all cores"),
        ("out", "folder of the tables"),
    ]


def test_a_flag_that_a_group_lacks_cannot_be_asked_for() -> None:
    with pytest.raises(KeyError, match="thread"):
        groups.RUN.only("thread")

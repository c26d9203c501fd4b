"""Every code block of the documentation: run where it is marked so, else parsed against the command line and the pipeline file."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, bitclass3
from doc_blocks import PAGES, Block, blocks, commands
from reference import commands as known_commands

from bitclass3_core.plugin.manager import installed
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.config_file import load_config

TUTORIAL = ROOT / "docs" / "tutorials" / "first-plugin.md"  # followed by test_tutorial.py
RUNNABLE = [page for page in PAGES if page != TUTORIAL and any(block.mark for block in blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_page(page: Path, folder: Path) -> None:
    """Do what a reader does, block after block, in a folder with the repository's examples."""
    (folder / "examples").symlink_to(ROOT / "examples")
    python: list[str] = []
    for block in blocks(page):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text)
        elif block.mark in ("run", "run: slow"):
            if block.language == "python":
                python.append(block.text)
            else:
                run_shell(block, folder)
    if python:
        line = [sys.executable, "-c", "\n".join(python)]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


PLAIN = re.compile(r"bitclass3 [^|&;<>()$`*?~#!]+")  # a line that a shell would only split into words


def run_shell(block: Block, folder: Path) -> None:
    lines = block.text.replace("\\\n", " ").strip().splitlines()
    if all(PLAIN.fullmatch(line) for line in lines):
        for line in lines:
            ended = bitclass3(*shlex.split(line)[1:], cwd=folder)
            assert ended.code == 0, f"{line}\n{ended.out}{ended.err}"
        return
    script = folder / "block.sh"
    script.write_text(f'bitclass3() {{ "{sys.executable}" -m bitclass3_core "$@"; }}\nset -eu\n{block.text}')
    done = subprocess.run(["sh", script], cwd=folder, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"


def is_slow(page: Path) -> bool:
    return any(block.mark == "run: slow" for block in blocks(page))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if is_slow(page) else [], id=name(page)) for page in RUNNABLE]
)
def test_marked_blocks_run(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_line_would_be_understood(page: Path) -> None:
    """Its command, flags, ``--set`` keys and plugins are there."""
    known = dict(known_commands())
    for line in commands(page):
        words = shlex.split(re.split(r" [|>] |  +#| # ", line)[0])[1:]
        words = [word for word in words if word not in ("...", "[...]")]
        command = next((c for c in (" ".join(words[:2]), words[0]) if c in known), None) if words else "run"
        if words and words[0].startswith("--"):
            continue  # bitclass3 --help
        assert command, f"{line}: there is no such command"
        arguments = words[len(command.split()) :]
        with known[command].make_context(command, list(arguments), resilient_parsing=True) as context:
            _check(line, context.params)


def _check(line: str, values: dict[str, object]) -> None:
    given = values.get("plugin") or ()
    for plugin in given if isinstance(given, (list, tuple)) else ():
        mine = plugin in ("cosine", "capped", "timing", "cost-cache", "compressed-tensors", "thrifty") or plugin.startswith("NAME")
        assert mine or plugin.endswith(".py") or plugin in installed(), f"{line}: there is no plugin {plugin}"
    settings = values.get("set_") or ()
    for setting in settings if isinstance(settings, (list, tuple)) else ():
        section, _, key = str(setting).partition("=")[0].partition(".")
        assert section in RunConfig.model_fields, f"{line}: there is no table {section}"
        fields = getattr(RunConfig.model_fields[section].annotation, "model_fields", {})
        is_free = section in ("budget", "cost_multipliers")  # options of any budget plugin, and roles of any model
        assert not key or is_free or key.split(".")[0] in fields, f"{line}: there is no key {section}.{key}"


def test_an_unknown_flag_would_be_found() -> None:
    command = dict(known_commands())["run"]
    with pytest.raises(Exception, match="No such option: --no-such-flag"):  # of click, which typer brings under a name of its own
        command.make_context("run", ["--no-such-flag"], resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_language_and_toml_is_a_pipeline(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        assert block.language in ("sh", "python", "toml"), f"{name(page)}: a block of {block.language or 'no language'}"
        if block.language == "python":
            assert block.mark, f"{name(page)}: a Python block that nothing runs; write <!-- run --> before it"
        if block.language == "toml":
            path = tmp_path / "pipeline.toml"
            path.write_text(block.text)
            load_config(path)


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert {Path("index.html"), Path("reference/hooks.html"), Path("tutorials/first-plugin.html")} <= pages
    hooks = (tmp_path / "site" / "reference" / "hooks.html").read_text()
    assert "bitclass3_solve(problem, model, architecture, options)" in hooks
    assert "from the code" not in hooks
    assert (tmp_path / "site" / "reference" / "pipeline.schema.json").is_file()

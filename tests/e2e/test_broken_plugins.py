"""Plugins that break in every way that third parties' do: the run names them, and nothing else is lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import ROOT, Done, bitclass3
from gguf_files import write_gguf

HEAD = "import time\nfrom bitclass3_core import hookimpl\nfrom bitclass3_core.problem import allocation_of\n"
SMALLEST = "return allocation_of(problem, [0] * len(problem.groups), 'mine')"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Done]:
    """A run of a tiny model without any text, in ``tmp_path/out``."""
    write_gguf(tmp_path / "model.gguf")

    def start(*arguments: object) -> Done:
        return bitclass3(*command(tmp_path), *arguments)

    return start


def command(folder: Path) -> list[object]:
    options = [
        "--plugin",
        "uniform",
        "--plugin",
        "generic",
        "--target-bpw",
        8,
        "--menu",
        "k",
        "--out",
        folder / "out",
        "--threads",
        1,
    ]
    return ["run", "--model", folder / "model.gguf", *options]


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(source: str, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(HEAD + source)
        return path

    return write


def solver(body: str) -> str:
    return f"@hookimpl\ndef bitclass3_solve(problem):\n    {body}\n"


def n_measured(folder: Path) -> int:
    """Cost cells in a run's folder, whatever they were measured from."""
    with sqlite3.connect(folder / "out" / "costs.sqlite") as connection:
        return int(connection.execute("SELECT count(*) FROM cost").fetchone()[0])


def test_import_error_is_found_before_anything_is_computed(run, plugin, tmp_path):
    done = run("--plugin", plugin("import no_such_module\n" + solver(SMALLEST)))
    assert done.code == 1
    assert "mine.py' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'" in done.error
    assert not (tmp_path / "out").exists()


def test_wrong_api_is_found_before_anything_is_computed(run, plugin, tmp_path):
    done = run("--plugin", plugin("BITCLASS3_API = 9\n" + solver(SMALLEST)))
    assert done.code == 1
    assert "is written for plugin API 9, this bitclass3 has 1; upgrade bitclass3" in done.error
    assert not (tmp_path / "out").exists()


def test_crash_is_named_with_its_traceback_and_the_costs_are_kept(run, plugin, tmp_path):
    done = run("--plugin", plugin(solver("raise KeyError('blk.0')")))
    assert done.code == 1
    assert done.error.startswith("plugin 'mine' crashed in bitclass3_solve (mine.py line 6): KeyError: 'blk.0'")
    assert 'mine.py", line 6, in bitclass3_solve' in done.err
    before = n_measured(tmp_path)
    again = run("--until", "solve")
    assert (again.code, n_measured(tmp_path)) == (0, before)
    assert "costs (" not in again.err  # none was missing


def test_wrong_answer_is_named_and_the_costs_are_kept(run, plugin, tmp_path):
    done = run("--plugin", plugin(solver("return allocation_of(problem, [len(g.choices) - 1 for g in problem.groups], 'mine')")))
    assert done.code == 1
    assert "plugin 'mine' answered" in done.error
    assert "bytes, the budget is" in done.error
    assert n_measured(tmp_path) > 0


@pytest.mark.parametrize("how", ["print('{}')", "import sys; sys.stdout.buffer.write(b'{}')", "import os; os.system('echo {}')"])
def test_prints_do_not_get_into_the_json(run, plugin, how):
    done = run("--plugin", plugin(solver(f"{how}; {SMALLEST}")), "--json", "--until", "solve")
    assert done.code == 0, done.err
    assert json.loads(done.out)["allocation"]
    assert "{}" in done.err


def test_broken_report_does_not_take_the_others_with_it(run, plugin, tmp_path):
    broken = plugin("@hookimpl\ndef bitclass3_report(run, out):\n    raise OSError('no pen')\n", "card")
    done = run("--plugin", broken, "--plugin", "model-card")
    assert done.code == 1
    assert "warning: plugin 'card' crashed in bitclass3_report (card.py line 6): OSError: no pen" in done.err
    assert done.error.startswith("plugin 'card' crashed in bitclass3_report")
    assert "mean KLD" in done.out  # the table
    assert (tmp_path / "out" / "README.md").is_file()
    assert any("card" in line for line in json.loads((tmp_path / "out" / "run.json").read_text())["warnings"])


def test_broken_exporter_beside_a_good_one_is_tried_again_by_the_next_run(run, plugin, tmp_path):
    source = "@hookimpl\ndef bitclass3_export(out, stem):\n    path = out / (stem + '.txt')\n    {}\n    return [path]\n"
    broken = plugin(source.format("pass"), "side")
    arguments = ["--plugin", "gguf", "--plugin", broken, "--baseline", "none"]
    done = run(*arguments)
    assert done.code == 1
    assert "plugin" in done.error
    assert "says that it wrote" in done.error
    assert (tmp_path / "out" / "README.md").is_file()
    plugin(source.format("path.write_text('mended')"), "side")
    again = run(*arguments)
    assert again.code == 0, again.err
    assert (tmp_path / "out" / "model-8.00bpw.txt").read_text() == "mended"


def test_without_any_gguf_a_broken_exporter_ends_the_run(run, plugin):
    done = run("--plugin", plugin("@hookimpl\ndef bitclass3_export(out):\n    1 / 0\n", "only"), "--baseline", "none")
    assert done.code == 1
    assert done.error.startswith("plugin 'only' crashed in bitclass3_export (only.py line 6): ZeroDivisionError")


@pytest.fixture
def started(tmp_path: Path, run: Callable[..., Done]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run in the background; it is killed at the end if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "bitclass3_core", *map(str, (*command(tmp_path), *arguments))]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def read_until(process: subprocess.Popen[str], part: str) -> str:
    """Lines of stderr up to the one that has ``part`` in it."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if part in line:
            return "".join(lines)
    raise AssertionError(f"{part!r} never came:\n{''.join(lines)}")


HANGS = {
    # The line is printed inside of the try: a signal that comes right after it must find the plugin deaf.
    "swallows the exception": (
        "solve",
        "while True:\n        try: print('inside'); time.sleep(60)\n        except BaseException: pass",
    ),
    "waits in a thread": ("measure", "print('inside')\n    while True: time.sleep(1)"),
}


@pytest.mark.parametrize("how", HANGS)
def test_plugin_that_hangs_on_ctrl_c_is_named_and_a_second_one_ends_it(started, plugin, how, tmp_path):
    stage, body = HANGS[how]
    arguments = {"solve": "problem", "measure": "model"}[stage]
    source = f"@hookimpl\ndef bitclass3_{stage}({arguments}):\n    {body}\n"
    process = started("--plugin", plugin(source, "stuck"))
    read_until(process, "] inside")
    process.send_signal(signal.SIGINT)
    said = read_until(process, "Ctrl-C again")
    assert f"waiting for plugin 'stuck' in bitclass3_{stage} (stuck.py line" in said
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"error: ended while plugin 'stuck' in bitclass3_{stage}" in err
    assert not list((tmp_path / "out").glob(".*.part"))
    if stage == "solve":
        assert n_measured(tmp_path) > 0


def test_one_ctrl_c_ends_a_plugin_that_behaves(started, plugin):
    process = started("--plugin", plugin("@hookimpl\ndef bitclass3_solve(problem):\n    print('inside')\n    time.sleep(60)\n"))
    read_until(process, "] inside")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error: interrupted; what was measured is kept" in err

"""Running programs: their output, how they end, and what is said of it."""

import signal
import sys
import threading
import time

import pytest

from bitclass3_core.errors import ToolchainError
from bitclass3_core.toolchain.running import ProgramFailed, Steps, run_program


def script(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_of_both_streams_is_returned_and_heard():
    heard = []
    output = run_program(script("import sys; print('out', flush=True); print('err é', file=sys.stderr)"), listener=heard.append)
    assert output.split() == ["out", "err", "é"]
    assert "".join(heard) == output


def test_pieces_are_heard_before_the_program_ends(tmp_path):
    """The program goes on only when its first line was heard."""
    heard = tmp_path / "heard"
    code = f"""
import pathlib, sys, time
print("first", flush=True)
for _ in range(600):
    if pathlib.Path({str(heard)!r}).exists():
        sys.exit(0)
    time.sleep(0.05)
sys.exit(1)
"""
    assert run_program(script(code), listener=lambda text: heard.touch()).split() == ["first"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; print('a'); print('b'); sys.exit(3)", r"failed with exit code 3; its last lines: a \| b$"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\); its last lines: none"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"was killed \(SIGKILL; out of memory\?\)"),
        (
            "import sys; print('error: invalid argument: --new'); sys.exit(1)",
            r"does not know the option --new: its llama\.cpp is too",
        ),
    ],
)
def test_bad_ends(code, says):
    with pytest.raises(ProgramFailed, match=says) as caught:
        run_program(script(code))
    assert "\n" not in str(caught.value)


def test_program_that_is_not_there(tmp_path):
    with pytest.raises(ToolchainError, match=r"cannot be run \(No such file or directory\)"):
        run_program([str(tmp_path / "none")])


def test_program_ends_with_us():
    """Ctrl-C while it runs: the program is ended, not left behind."""
    begin = time.monotonic()
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_program(script("import time; time.sleep(60)"))
    assert time.monotonic() - begin < 20


def test_steps_are_counted_across_cut_pieces():
    n_steps = []
    steps = Steps(r"\[\d+\][\d.]+,", lambda: n_steps.append(1))
    for piece in ("noise [1]20.", "5,[2]", "19.5,[3]18", ".0,", "[4"):
        steps(piece)
    assert len(n_steps) == 3

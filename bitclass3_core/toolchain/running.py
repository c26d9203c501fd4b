"""Runs a program of llama.cpp: an argument list and no shell, its output piece by piece, and one clear error if it fails."""

import codecs
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bitclass3_core.errors import ToolchainError

Listener = Callable[[str], None]
_LAST_LINES = 6
_KEPT_CHARS = 4 << 20  # of the output, so that a program that prints for days does not fill the memory
_TOO_OLD = re.compile(r"(?:invalid|unknown|unrecognized) (?:argument|option)s?:? *'?(--?[\w-]+)", re.IGNORECASE)
_KILLED = (signal.SIGKILL, signal.SIGTERM)
_SECONDS_TO_END = 10


class ProgramFailed(ToolchainError):
    """A program ended with an error; ``output`` is what it printed."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


def run_program(
    command: Sequence[str], folder: Path | None = None, listener: Listener | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run a command in ``folder``; returns all that it printed, stdout and stderr together. ``listener`` gets every piece.

    Raises ProgramFailed if it ends with an error, crashes or does not know an option, ToolchainError if it cannot be started. If this
    process raises (Ctrl-C too), the program is ended first.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    except OSError as error:
        raise _not_started(command[0], error) from None
    with process:
        try:
            output = _listen(process, listener)
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise ProgramFailed(_what_happened(name, command[1:], process.returncode, output), output)
    return output


def capture_program(command: Sequence[str]) -> tuple[str, str]:
    """(stdout, stderr) of a short command. Raises the errors of ``run_program``."""
    try:
        done = captured(command)
    except OSError as error:
        raise _not_started(command[0], error) from None
    if done.returncode:
        output = done.stdout + "\n" + done.stderr
        raise ProgramFailed(_what_happened(Path(command[0]).name, command[1:], done.returncode, output), output)
    return done.stdout, done.stderr


def captured(
    command: Sequence[str], seconds: float | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """A short command after its end, whatever its exit code. Raises OSError, and TimeoutExpired after ``seconds``."""
    return subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def pip(*arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """This Python's pip after its end: it knows the user's registries, proxies and certificates."""
    return captured([sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments], None, environment)


def _not_started(program: str, error: OSError) -> ToolchainError:
    return ToolchainError(f"{program} cannot be run ({error.strerror}); build llama.cpp for this machine")


def _listen(process: "subprocess.Popen[bytes]", listener: Listener | None) -> str:
    """Everything that the process prints until it ends; only the last ``_KEPT_CHARS`` are kept."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    n_kept = 0
    stdout = process.stdout
    while stdout is not None and (data := os.read(stdout.fileno(), 1 << 16)):
        text = decoder.decode(data)
        pieces.append(text)
        n_kept += len(text)
        if n_kept > 2 * _KEPT_CHARS:
            pieces = ["".join(pieces)[-_KEPT_CHARS:]]
            n_kept = len(pieces[0])
        if listener:
            listener(text)
    return "".join(pieces)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()


def last_lines(output: str, n_lines: int = _LAST_LINES) -> str:
    """The last lines of an output, as one line: ``a | b | c``."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-n_lines:]) or "none"


def _unknown_option(arguments: Sequence[str], output: str) -> str | None:
    """The option that a program refuses: it says so, or it prints its usage without that option."""
    if found := _TOO_OLD.search(output):
        return found[1]
    if "usage:" not in output:
        return None
    return next((name for name in arguments if name.startswith("--") and name not in output), None)


def _what_happened(name: str, arguments: Sequence[str], code: int, output: str) -> str:
    lines = last_lines(output)
    if unknown := _unknown_option(arguments, output):
        return (
            f"this {name} does not know the option {unknown}: its llama.cpp is too old (or too new); "
            "update it, or run `bitclass3 toolchain install` and unset LLAMA_CPP_DIR"
        )
    if code < 0:
        ended = signal.Signals(-code)
        what = "was killed" if ended in _KILLED else "crashed"
        why = "; out of memory?" if ended == signal.SIGKILL else ""
        return f"{name} {what} ({ended.name}{why}); its last lines: {lines}"
    return f"{name} failed with exit code {code}; its last lines: {lines}"


class Steps:
    """A listener that calls ``on_step`` for each match of a pattern in a program's output."""

    def __init__(self, pattern: str, on_step: Callable[[], None]) -> None:
        self._pattern, self._on_step = re.compile(pattern), on_step
        self._rest = ""

    def __call__(self, text: str) -> None:
        """Take the next piece of output. A match may go over its end, so the rest is kept for the next piece."""
        self._rest += text
        end = 0
        for match in self._pattern.finditer(self._rest):
            self._on_step()
            end = match.end()
        self._rest = self._rest[end:][-4096:]

"""Runs cmake: configure, find the targets, build them with progress. A log keeps everything that it prints."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bitclass3_core.errors import ToolchainError
from bitclass3_core.machine import default_threads
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.finding import STAND_INS
from bitclass3_core.toolchain.requirements import BACKENDS, Tools, search_path

_STEP = re.compile(r"\[(\d+)/(\d+)\]")  # ninja
_PERCENT = re.compile(r"\[ *(\d+)%\]")  # make
_TARGET = re.compile(r"^(?:\.\.\. )?(llama-[\w-]+)(?::.*)?$", re.MULTILINE)  # the help of ninja and of make
_LAST_LINES = 8
_JOB_BYTES = 1.5 * 2**30  # memory that a compiler takes for the largest files


def default_jobs() -> int:
    """One job for each core; fewer if the memory is small."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return default_threads(0)
    return max(1, min(default_threads(0), int(memory / _JOB_BYTES)))


def parse_step(line: str) -> tuple[int, int] | None:
    """Steps done and steps in all, from a line of ninja (``[12/143] ...``) or of make (``[ 12%] ...``); None from other lines."""
    if found := _STEP.match(line):
        return int(found[1]), int(found[2])
    if found := _PERCENT.match(line):
        return int(found[1]), 100
    return None


class _Steps:
    """Reports the steps of a build to the progress."""

    def __init__(self, label: str, progress: Progress) -> None:
        self._label, self._progress, self._done, self._total = label, progress, 0, 0

    def __call__(self, line: str) -> None:
        step = parse_step(line)
        if step is None:
            return
        done, total = step
        if total != self._total:
            self._progress.begin(self._label, total)
            self._done, self._total = 0, total
        if done > self._done:
            self._progress.advance(done - self._done)
            self._done = done


@dataclass(frozen=True, slots=True)
class Build:
    """One source tree built in one folder."""

    source: Path
    folder: Path
    log: Path
    tools: Tools
    backend: str
    commit: str
    keep_open: tuple[int, ...] = ()  # descriptor of the lock, which is held as long as a compiler of ours runs

    def _options(self) -> list[str]:
        """Arguments of cmake: programs find the shared libraries beside them, even if the folder moves; no network library."""
        switches = {switch: "ON" if name == self.backend else "OFF" for name, (switch, _) in BACKENDS.items() if switch}
        if self.backend == "sycl":
            switches |= {"CMAKE_C_COMPILER": "icx", "CMAKE_CXX_COMPILER": "icpx"}
        origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
        parts = dict.fromkeys(("CURL", "OPENSSL", "BUILD_SERVER", "BUILD_APP", "BUILD_TESTS", "BUILD_EXAMPLES"), "OFF")
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "BUILD_SHARED_LIBS": "ON",
            "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
            "CMAKE_INSTALL_RPATH": origin,
            "LLAMA_BUILD_COMMIT": self.commit[:7],
            **{f"LLAMA_{name}": value for name, value in parts.items()},
            **switches,
        }
        return [f"-D{name}={value}" for name, value in options.items()]

    def _environment(self) -> dict[str, str]:
        ours = {"PATH": search_path(), "NINJA_STATUS": "[%f/%t] ", "LC_ALL": "C"}
        # else git would report the commit of a repository around the cache
        ours["GIT_CEILING_DIRECTORIES"] = str(self.source.parent)
        foreign = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # this process may run under make
        return {**{name: value for name, value in os.environ.items() if name not in foreign}, **ours}

    def _run(self, what: str, arguments: list[str], log: TextIO, each_line: Callable[[str], None]) -> str:
        """Run cmake; returns what it printed, raises ToolchainError with its last lines if it fails."""
        command = [self.tools.cmake, *arguments]
        log.write(f"$ {' '.join(command)}\n")
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment(),
            pass_fds=self.keep_open,
            start_new_session=True,  # a group of its own: cmake passes no signal to the compilers that it starts
        ) as process:
            try:
                lines = [_note(line, log, each_line) for line in process.stdout or ()]
            except BaseException:
                with suppress(OSError):  # it has ended by itself
                    os.killpg(process.pid, signal.SIGTERM)
                raise
        if process.returncode:
            last = " | ".join([line for line in lines if line][-_LAST_LINES:])
            raise ToolchainError(
                f"{what} failed with exit code {process.returncode}; its last lines: {last}; all of it: {self.log}"
            )
        return "\n".join(lines)

    def _configure(self, log: TextIO) -> None:
        arguments = ["-S", str(self.source), "-B", str(self.folder), "-G", self.tools.generator, *self._options()]
        again = self.folder.exists()
        try:
            self._run("cmake", arguments, log, lambda _: None)
        except ToolchainError:
            if not again:
                raise
            shutil.rmtree(self.folder)  # an earlier call left files that are damaged or of another generator
            self._run("cmake", arguments, log, lambda _: None)

    def __call__(self, programs: tuple[str, ...], jobs: int, progress: Progress) -> tuple[str, ...]:
        """Build the programs into ``folder/bin``; returns their names, or the stand-in's name if the source has only that."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w", encoding="utf-8") as log:
            progress.say(f"configure: {self.tools.generator}, {self.tools.compiler}, back end {self.backend}")
            self._configure(log)
            listed = self._run("cmake", ["--build", str(self.folder), "--target", "help"], log, lambda _: None)
            targets = _targets(programs, {*_TARGET.findall(listed)})
            arguments = ["--build", str(self.folder), "--parallel", str(jobs), "--target", *targets]
            progress.say(f"build: {', '.join(targets)} with {jobs} {'job' if jobs == 1 else 'jobs'}; log {self.log}")
            try:
                self._run("the build of llama.cpp", arguments, log, _Steps("build llama.cpp", progress))
            finally:
                progress.end()
        return targets


def _note(line: str, log: TextIO, each_line: Callable[[str], None]) -> str:
    log.write(line)
    log.flush()  # so that the log can be read while a build hangs
    each_line(line)
    return line.strip()


def _targets(programs: tuple[str, ...], defined: set[str]) -> tuple[str, ...]:
    """The target of every program. Raises ToolchainError if the source does not define one."""
    targets = {name: name if name in defined else STAND_INS.get(name, name) for name in programs}
    if unknown := sorted({*targets.values()} - defined):
        known = ", ".join(sorted(name for name in defined if not name.endswith("-impl"))) or "none"
        raise ToolchainError(f"this llama.cpp has no program {', '.join(unknown)}; it has {known}")
    return tuple(dict.fromkeys(targets.values()))

"""Progress with an ETA: a bar on a terminal, plain lines otherwise; always on stderr, so that stdout stays clean for --json."""

import sys
import threading
import time
from typing import Protocol

PLAIN_INTERVAL = 10.0  # seconds between two plain lines of one stage


class Progress(Protocol):
    """What a stage reports to. Safe to call from several threads."""

    def begin(self, label: str, total: float) -> None:
        """A stage starts: ``total`` units of work."""

    def advance(self, units: float = 1.0) -> None:
        """Some units are done."""

    def end(self) -> None:
        """The stage is over."""

    def say(self, line: str) -> None:
        """A line worth keeping."""

    def warn(self, line: str) -> None:
        """A line that the user must see, with --quiet too."""


class Silent:
    """Says nothing: for the Python API and for tests."""

    def begin(self, label: str, total: float) -> None: ...

    def advance(self, units: float = 1.0) -> None: ...

    def end(self) -> None: ...

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...


def eta(elapsed: float, done: float, total: float) -> str:
    """Time left at the measured pace, as ``1:05``; ``?`` before anything is done."""
    if done <= 0:
        return "?"
    seconds = round(elapsed * max(0.0, total - done) / done)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Plain:
    """Lines on stderr, at most one every ten seconds for a stage."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._label, self._total, self._done = "", 0.0, 0.0
        self._begin = self._last = time.monotonic()

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def begin(self, label: str, total: float) -> None:
        with self._lock:
            self._label, self._total, self._done = label, total, 0.0
            self._begin = self._last = time.monotonic()

    def advance(self, units: float = 1.0) -> None:
        with self._lock:
            self._done += units
            now = time.monotonic()
            if self._quiet or now - self._last < PLAIN_INTERVAL:
                return
            self._last = now
            share = self._done / self._total if self._total else 1.0
            self._print(f"{self._label}: {share:.0%}, ETA {eta(now - self._begin, self._done, self._total)}")

    def end(self) -> None:
        """Nothing to do: the pipeline says the result of the stage."""

    def say(self, line: str) -> None:
        if not self._quiet:
            self._print(line)

    def warn(self, line: str) -> None:
        self._print(f"warning: {line}")


class Bar:
    """A rich bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: object | None = None
        self._task: object | None = None

    def begin(self, label: str, total: float) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.end()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
        bar = RichProgress(*columns, console=self._console, transient=True)
        bar.start()
        self._bar, self._task = bar, bar.add_task(label, total=total or 1.0)

    def advance(self, units: float = 1.0) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, units)  # type: ignore[attr-defined]

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]
            self._bar = None

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def warn(self, line: str) -> None:
        self._console.print(f"warning: {line}", style="yellow", highlight=False, markup=False)


def terminal_progress(quiet: bool) -> Progress:
    """A bar where stderr is a terminal, plain lines otherwise; with ``quiet`` warnings only."""
    return Bar() if sys.stderr.isatty() and not quiet else Plain(quiet)

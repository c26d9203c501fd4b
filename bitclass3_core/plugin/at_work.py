"""Which plugin is at work in which thread: so that a crash, a hang or a print can be named, and a wrapper knows what it goes around.

While any plugin works, what it prints to stdout goes to stderr, each line with the plugin's name: stdout belongs to ``--json``.
"""

import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class AtWork:
    """A plugin inside one of its hooks (or ``import``): its version and options say what its answer depends on."""

    plugin: str
    hook: str
    version: str = ""
    options: BaseModel | None = None
    since: float = 0.0  # time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.since


_lock = threading.Lock()
_working: dict[int, AtWork] = {}  # by thread: facts of the process, as its threads are


def at_work() -> AtWork | None:
    """The plugin that this thread is inside of, None outside of any: what a wrapper asks to know what it goes around."""
    return _working.get(threading.get_ident())


def all_at_work() -> list[tuple[int, AtWork]]:
    """(thread, plugin) of every thread that is inside a plugin, the longest at work first."""
    return sorted(dict(_working).items(), key=lambda item: item[1].since)


def where(thread: int, core: str = "bitclass3_core") -> str:
    """``mine.py line 12``: the innermost line of a thread outside of the core and the standard library's waiting; empty if unknown."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith((core, "pluggy", "threading", "concurrent")):
            return f"{Path(frame.f_code.co_filename).name} line {frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextmanager
def working(plugin: str, hook: str, version: str = "", options: BaseModel | None = None) -> Iterator[None]:
    """Note that this thread is inside that plugin until the end of the block; its prints go to stderr."""
    thread = threading.get_ident()
    before = _working.get(thread)
    with _lock:
        if not _working:
            _Stdout.real, sys.stdout = sys.stdout, _Stdout()
        _working[thread] = AtWork(plugin, hook, version, options, time.monotonic())
    try:
        yield
    finally:
        with _lock:
            if isinstance(sys.stdout, _Stdout):
                sys.stdout.finish(thread)
            if before is None:
                del _working[thread]
            else:
                _working[thread] = before
            if not _working and _Stdout.real is not None:
                sys.stdout, _Stdout.real = _Stdout.real, None


class _Stdout(io.TextIOBase):
    """Stands in for ``sys.stdout``: lines go to stderr as ``[plugin] line``."""

    real: TextIO | None = None

    def __init__(self) -> None:
        self._rest: dict[int, str] = {}

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        *lines, rest = (self._rest.pop(thread, "") + text).split("\n")
        for line in lines:
            self._say(thread, line)
        if rest:
            self._rest[thread] = rest
        return len(text)

    def _say(self, thread: int, line: str) -> None:
        # a thread that a plugin started is not known: then whichever plugin is at work
        known = _working.get(thread) or next(iter(_working.values()), None)
        print(f"[{known.plugin}] {line}" if known else line, file=sys.stderr)

    def finish(self, thread: int) -> None:
        """Print what no line end came after."""
        if rest := self._rest.pop(thread, ""):
            self._say(thread, rest)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return sys.stderr.fileno()

    @property
    def buffer(self) -> Any:
        """For those who write bytes."""
        return sys.stderr.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As stderr's."""
        return sys.stderr.encoding

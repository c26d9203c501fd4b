"""A run watched from a thread of its own: who is slow, who does not stop on Ctrl-C, and a second Ctrl-C that always ends it.

Python raises KeyboardInterrupt only between two bytecodes of the main thread. A plugin that sits in C code, waits for its own threads
or swallows the exception would hang the command; the file descriptor that every signal writes to is read here whatever it does.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from bitclass3_core.errors import InterruptedRunError
from bitclass3_core.plugin.at_work import all_at_work, where
from bitclass3_core.progress import Progress, eta

GRACE_SECONDS = 3.0  # after Ctrl-C, before it is said what the run waits for
SLOW_SECONDS = 60.0  # a plugin that works for so long is named, and again after twice the time
INTERRUPTED = "interrupted; what was measured is kept, run the same command again to go on"


def _names() -> str:
    """``plugin 'mine' in bitclass3_solve (mine.py line 12)`` for each plugin at work, once."""
    lines = [
        f"plugin {work.plugin!r} in {work.hook}" + (f" ({at})" if (at := where(thread)) else "") for thread, work in all_at_work()
    ]
    return ", ".join(dict.fromkeys(lines)) or "the run"


class _Watch(threading.Thread):
    def __init__(self, reader: int, progress: Progress) -> None:
        super().__init__(daemon=True, name="bitclass3-watch")
        self._reader, self._progress = reader, progress
        self._interrupted = 0.0  # when Ctrl-C came
        self._said: dict[str, float] = {}

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([self._reader], [], [], 0.5)
            if ready:
                numbers = os.read(self._reader, 64)
                if not numbers:
                    return
                for number in numbers:
                    self._signalled(number)
            elif self._interrupted:
                self._say_what_hangs()
            else:
                self._say_who_is_slow()

    def _signalled(self, number: int) -> None:
        if number != signal.SIGINT:
            return
        if self._interrupted:
            print(f"error: ended while {_names()} was still at work; {INTERRUPTED}", file=sys.stderr, flush=True)
            os._exit(InterruptedRunError.exit_code)  # whatever holds the main thread; files appear only when complete
        self._interrupted = time.monotonic()

    def _say_what_hangs(self) -> None:
        if self._interrupted != float("inf") and time.monotonic() - self._interrupted > GRACE_SECONDS:
            self._interrupted = float("inf")
            self._progress.warn(f"waiting for {_names()} to stop; Ctrl-C again ends at once, what was measured is kept")

    def _say_who_is_slow(self) -> None:
        for _, work in all_at_work():
            key = f"{work.plugin} {work.hook} {work.since}"
            if work.seconds > self._said.get(key, SLOW_SECONDS):
                self._said[key] = 2 * work.seconds
                self._progress.say(f"plugin {work.plugin!r} has been at work in {work.hook} for {eta(work.seconds, 1, 2)}")


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Watch what runs in the block, and end its progress; a KeyboardInterrupt becomes an InterruptedRunError, a second Ctrl-C ends the process."""
    try:
        with _watch(progress) if _has_signals() else nullcontext():
            yield
    finally:
        progress.end()


def _has_signals() -> bool:
    """Whether signals can be read here: they are the main thread's, and on Windows the descriptor would have to be a socket."""
    return threading.current_thread() is threading.main_thread() and os.name != "nt"


@contextmanager
def _watch(progress: Progress) -> Iterator[None]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = _Watch(reader, progress)
    watch.start()
    try:
        yield
    except KeyboardInterrupt:  # not left to typer, which would say "Aborted" and no more
        raise InterruptedRunError(INTERRUPTED) from None
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watch.join()
        os.close(reader)


@contextmanager
def stdout_kept() -> Iterator[None]:
    """What the block prints to stdout, C code and subprocesses included, goes to stderr: stdout is for the result alone."""
    sys.stdout.flush()
    with redirect_stdout(sys.stderr):
        try:
            saved = os.dup(1)
        except OSError:  # no stdout at all
            yield
            return
        try:
            os.dup2(2, 1)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 1)
            os.close(saved)

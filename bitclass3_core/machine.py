"""What a run may use of this machine: how many threads, and whose llama.cpp."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class _Asked:
    """What the run that was opened last asked for: facts of the process, as its libraries and threads are."""

    threads: int = 0
    llama_cpp: Path | None = None


_asked = _Asked()


def use(threads: int = 0, llama_cpp: Path | None = None) -> bool:
    """Let this process use so many threads (0: all cores) and the llama.cpp in that folder (None: the environment's).

    Returns whether the folder is another one than before.
    """
    is_other = llama_cpp != _asked.llama_cpp
    _asked.threads, _asked.llama_cpp = threads, llama_cpp
    return is_other


def llama_cpp_folder() -> Path | None:
    """The folder of llama.cpp that the run names, else ``$LLAMA_CPP_DIR``; None if there is neither."""
    if _asked.llama_cpp is not None:
        return _asked.llama_cpp
    named = os.environ.get("LLAMA_CPP_DIR")
    return Path(named) if named else None


def default_threads(asked: int) -> int:
    """Threads to use: as asked here, else as the run asks, else every core that this process may run on."""
    if threads := asked or _asked.threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

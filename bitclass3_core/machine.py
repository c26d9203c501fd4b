"""What this machine gives to a run."""

import os


def default_threads(asked: int) -> int:
    """Threads to use: as asked, else every core that this process may run on."""
    if asked:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

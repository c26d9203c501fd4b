"""A timing log: how long each plugin took in each hook, as lines on stderr."""

import sys
import time
from collections.abc import Callable, Generator
from typing import Any

from bitclass3_core import hookimpl
from bitclass3_core.at_work import at_work
from bitclass3_core.plugins import STAGES

BITCLASS3_API = 1


def _timed(hook: str) -> Callable[[], Generator[None, Any, Any]]:
    @hookimpl(wrapper=True, specname=hook)
    def timed() -> Generator[None, Any, Any]:
        began, work = time.monotonic(), at_work()
        try:
            return (yield)  # the plugin works here; its answer goes on as it is
        finally:
            name = f"{work.plugin} {work.version}" if work else "?"
            print(f"timing: {hook} by {name}: {time.monotonic() - began:.3f} s", file=sys.stderr)

    return timed


for _stage in STAGES:
    globals()[f"timed_{_stage}"] = _timed(f"bitclass3_{_stage}")

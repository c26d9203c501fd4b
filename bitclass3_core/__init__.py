"""bitclass3: a language model in, a mixed-precision GGUF with a measured KLD out. The core: hooks, types, pipeline, checks.

A plugin imports ``hookimpl`` from here and its types from the modules that ``hookspecs.py`` names. A program calls ``run``, or asks
``open_run`` for the stages one by one.
"""

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from bitclass3_core.runs.api import open_run, run

hookspec = pluggy.HookspecMarker("bitclass3")
hookimpl = pluggy.HookimplMarker("bitclass3")

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl", "hookspec", "open_run", "run"]


def __getattr__(name: str) -> Any:
    """``run`` and ``open_run``, imported when they are asked for: a plugin that needs ``hookimpl`` alone is quick to import."""
    if name in ("run", "open_run"):
        from bitclass3_core.runs import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

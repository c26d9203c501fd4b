"""bitclass3: a language model in, a mixed-precision GGUF with a measured KLD out. The core: hooks, types, pipeline, checks.

A plugin imports ``hookimpl`` from here and its types from the modules that ``hookspecs.py`` names.
"""

import pluggy

hookspec = pluggy.HookspecMarker("bitclass3")
hookimpl = pluggy.HookimplMarker("bitclass3")

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl", "hookspec"]

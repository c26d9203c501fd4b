"""The version of a plugin's answers: what fingerprints keep of the code that an artefact was made by."""

import re
from types import ModuleType

from bitclass3_core.errors import PluginError
from bitclass3_core.plugin.source_hash import source_hash

NAME = "BITCLASS3_ANSWERS"
_LONGEST = 40


def answers_version(module: ModuleType, name: str) -> str:
    """What the plugin declares as ``BITCLASS3_ANSWERS``; without it the hash over its source, which every edit changes.

    A plugin that declares it may be moved or described anew, and what it has answered before still counts. It must change whenever
    the plugin's answers to the same question do. Raises PluginError for what is no short text of letters, digits and ``. _ -``.
    """
    declared = getattr(module, NAME, None)
    if declared is None:
        return source_hash(module)
    if not (isinstance(declared, str) and re.fullmatch(r"[0-9A-Za-z._-]+", declared) and len(declared) <= _LONGEST):
        raise PluginError(
            f"plugin {name!r}: {NAME} is {declared!r}, expected a text of 1 to {_LONGEST} letters, digits, '.', '_' or '-'; "
            f'write {NAME} = "1"'
        )
    return declared

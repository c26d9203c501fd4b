"""Flags that constrain tensors: ``--menu``, ``--pin``, ``--floor``, as paths into the configuration.

Constraints of a pipeline file stay beside those of the flags.
"""

from collections.abc import Sequence

from bitclass3_core.cli.flags import Keys
from bitclass3_core.errors import ConfigError


def menus(texts: Sequence[str]) -> Keys:
    """The menu of all tensors, and those of tensors by regular expression. Raises ConfigError where two texts contradict."""
    from bitclass3_core.runs.config_file import parse_menu

    keys: Keys = {}
    for text in texts:
        pattern, _, names = text.rpartition("=")
        path = ("qtypes", "menus", pattern) if pattern else ("qtypes", "menu")
        _put(keys, path, parse_menu(names), "--menu", text)
    return keys


def types(flag: str, key: str, texts: Sequence[str]) -> Keys:
    """Types by regular expression: pins, floors. Raises ConfigError for a text that is no REGEX=TYPE, and where two contradict."""
    keys: Keys = {}
    for text in texts:
        pattern, _, name = text.rpartition("=")
        if not pattern or not name:
            raise ConfigError(f"{flag} {text!r} is not understood; write it like {flag} 'ffn_down=Q6_K'")
        _put(keys, ("qtypes", key, pattern), name, flag, text)
    return keys


def _put(keys: Keys, path: tuple[str, ...], value: str | list[str], flag: str, text: str) -> None:
    if keys.setdefault(path, value) != value:
        raise ConfigError(f"{flag} {text!r} contradicts an earlier {flag}; give one of them")

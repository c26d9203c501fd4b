"""Every error that bitclass3 raises on purpose, and the suggestion that goes with an unknown name.

Bitclass3Error            one line on the terminal, exit 1
├─ ConfigError            the pipeline or a flag is wrong, exit 2
├─ PluginError            a plugin is missing, broken or ambiguous
│  ├─ ContractError       a plugin answered what its hook does not allow
│  └─ CrashError          a plugin's code failed: its traceback is shown
├─ InfeasibleError        no allocation fits, exit 3
├─ ModelFileError         a model, GGUF, corpus or imatrix file cannot be used
│  └─ UnusableTypeError    a tensor cannot have that type: the run takes another and goes on
└─ ToolchainError         llama.cpp is missing or failed
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class Bitclass3Error(Exception):
    """An error for the user: its message is one line that names the thing, what it got and what to do."""

    exit_code = 1


class ConfigError(Bitclass3Error):
    """The pipeline file or a flag is wrong."""

    exit_code = 2


class PluginError(Bitclass3Error):
    """A plugin is missing, broken or ambiguous."""


class ContractError(PluginError):
    """A plugin answered what its hook does not allow."""


class CrashError(PluginError):
    """A plugin's code failed; the error that it raised is the ``__cause__``."""


class InfeasibleError(Bitclass3Error):
    """No allocation fits the budget."""

    exit_code = 3


class ModelFileError(Bitclass3Error):
    """A model, GGUF, corpus or imatrix file cannot be used."""


class UnusableTypeError(ModelFileError):
    """A tensor cannot have a type: its blocks come out as NaN, or a kernel's assertion fails. The run gives it another type."""

    def __init__(self, tensor: str, qtype: str, reason: str) -> None:
        super().__init__(f"{tensor or 'a tensor'} cannot be {qtype}: {reason}")
        self.tensor, self.qtype, self.reason = tensor, qtype, reason


class ToolchainError(Bitclass3Error):
    """A llama.cpp program is missing or failed."""


class InterruptedRunError(Bitclass3Error):
    """The user pressed Ctrl-C; what was measured is kept."""

    exit_code = 130  # what shells expect


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest known one, then the list (``; did you mean 'ilp'? known: ...``)."""
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = get_close_matches(name.lower(), lowered, n=1)
    suggestion = f"; did you mean {lowered[close[0]]!r}?" if close else ";"
    return f"{suggestion} known: {', '.join(names) or 'none'}"


def message_of(error: Mapping[str, Any]) -> str:
    """The words of one of pydantic's errors, as a part of a line: lower case, without what it puts before a validator's own words."""
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]

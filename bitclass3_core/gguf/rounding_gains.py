"""How much of each tensor's error a better rounding left: a file beside the GGUF, for the model card and the next cost table.

A tensor whose error it halves needs fewer bits than its cost with plain rounding says; a tensor that it does not help needs more.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bitclass3_core.errors import ConfigError
from bitclass3_core.files import write_json

_Found = TypeVar("_Found")
SUFFIX = ".rounding.json"
LEAST = 0.01  # least share of an error that counts as left: it was measured on few tokens


@dataclass(frozen=True, slots=True)
class RoundingGain:
    """One tensor: its type, its error with plain rounding and as it is kept (in the same unit), and how it was rounded."""

    qtype: str
    plain: float
    kept: float
    rounding: str

    @property
    def left(self) -> float:
        """The share of plain rounding's error that is left, from ``LEAST`` to 1: with 0 every type would be free."""
        return min(1.0, max(LEAST, self.kept / self.plain)) if self.plain > 0 else 1.0


@dataclass(frozen=True, slots=True)
class TuningGain:
    """KLD in nats per token before and after tuning the scales, on calibration text that the tuning did not see.

    If tuning did not lower it, the file has the scales from before.
    """

    before: float
    after: float

    @property
    def is_kept(self) -> bool:
        """Whether the file has the tuned scales."""
        return self.after < self.before


def mean_left(gains: Mapping[str, RoundingGain]) -> float:
    """The share of plain rounding's error that is left, mean over tensors; 1 if all were rounded plainly."""
    return sum(gain.left for gain in gains.values()) / len(gains) if gains else 1.0


def save_gains(path: Path, gains: Mapping[str, RoundingGain], tuning: TuningGain | None = None) -> None:
    """Write the gains by tensor, and what tuning gained after them."""
    values: dict[str, Any] = {"format": 1, "tensors": {name: asdict(gains[name]) for name in sorted(gains)}}
    write_json(path, values if tuning is None else {**values, "tuning": asdict(tuning)})


def _parsed(path: Path, parse: Callable[[Any], _Found]) -> _Found:
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"rounding gains {path} do not exist; an export with rounding = 'feedback' writes them beside the GGUF"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is no file of rounding gains; give the *{SUFFIX} that an export with feedback wrote") from None


def load_gains(path: Path) -> dict[str, RoundingGain]:
    """The gains by tensor. Raises ConfigError if the file is missing or is no file of gains."""

    def gain(e: Mapping[str, Any]) -> RoundingGain:
        return RoundingGain(str(e["qtype"]), float(e["plain"]), float(e["kept"]), str(e["rounding"]))

    return _parsed(path, lambda values: {str(name): gain(e) for name, e in values["tensors"].items()})


def load_tuning(path: Path) -> TuningGain | None:
    """What tuning gained; None if nothing was tuned. Raises ConfigError if the file is missing or is no file of gains."""

    def tuning(values: Mapping[str, Any]) -> TuningGain | None:
        entry = values.get("tuning")
        return None if entry is None else TuningGain(float(entry["before"]), float(entry["after"]))

    return _parsed(path, tuning)

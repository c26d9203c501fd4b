"""What a better rounding left of each tensor's error: written beside the file, read by the model card and the next allocation's cost table.

A tensor whose errors the rounding halves needs fewer bits than its cost with plain rounding says, one that it cannot help needs more.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitclass3_core.errors import ConfigError
from bitclass3_core.files import write_json

SUFFIX = ".rounding.json"
LEAST = 0.01  # share of an error that is left at least: the tokens that judged it were few


@dataclass(frozen=True, slots=True)
class RoundingGain:
    """One tensor: its type, its error with plain rounding and as it is kept (the same unit, whichever), and how it was rounded."""

    qtype: str
    plain: float
    kept: float
    rounding: str

    @property
    def left(self) -> float:
        """Share of plain rounding's error that is left, at most 1; never 0, which would make every type free."""
        return min(1.0, max(LEAST, self.kept / self.plain)) if self.plain > 0 else 1.0


@dataclass(frozen=True, slots=True)
class TuningGain:
    """KLD in nats per token on calibration text that was left out, with the scales as they were rounded and tuned.

    Where tuning did not lower it the scales stayed as they were rounded.
    """

    before: float
    after: float

    @property
    def is_kept(self) -> bool:
        """Whether the file has the tuned scales."""
        return self.after < self.before


def mean_left(gains: Mapping[str, RoundingGain]) -> float:
    """Share of plain rounding's error that is left, in the mean over tensors; 1 where nothing was rounded otherwise."""
    return sum(gain.left for gain in gains.values()) / len(gains) if gains else 1.0


def save_gains(path: Path, gains: Mapping[str, RoundingGain], tuning: TuningGain | None = None) -> None:
    """Write them, by tensor, and what tuning gained after it."""
    values: dict[str, Any] = {"format": 1, "tensors": {name: asdict(gains[name]) for name in sorted(gains)}}
    write_json(path, values if tuning is None else {**values, "tuning": asdict(tuning)})


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"rounding gains {path} do not exist; an export with rounding = 'feedback' writes them beside the GGUF"
        ) from None
    except (OSError, ValueError):
        raise _no_gains(path) from None
    if not isinstance(values, dict):
        raise _no_gains(path)
    return values


def _no_gains(path: Path) -> ConfigError:
    return ConfigError(f"{path} is no file of rounding gains; give the *{SUFFIX} that an export with feedback wrote")


def load_gains(path: Path) -> dict[str, RoundingGain]:
    """Read them. Raises ConfigError for a file that is missing or is none of ours."""
    try:
        entries = _read(path)["tensors"].items()
        return {
            str(name): RoundingGain(str(e["qtype"]), float(e["plain"]), float(e["kept"]), str(e["rounding"])) for name, e in entries
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _no_gains(path) from None


def load_tuning(path: Path) -> TuningGain | None:
    """What tuning gained, None if there was none. Raises ConfigError for a file that is missing or is none of ours."""
    try:
        entry = _read(path).get("tuning")
        return None if entry is None else TuningGain(float(entry["before"]), float(entry["after"]))
    except (ValueError, KeyError, TypeError):
        raise _no_gains(path) from None

"""What a better rounding left of each tensor's error: written beside the file, read by the cost table of the next allocation.

A tensor whose errors the rounding halves needs fewer bits than its cost with plain rounding says, one that it cannot help needs more.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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


def save_gains(path: Path, gains: Mapping[str, RoundingGain]) -> None:
    """Write them, by tensor."""
    write_json(path, {"format": 1, "tensors": {name: asdict(gains[name]) for name in sorted(gains)}})


def load_gains(path: Path) -> dict[str, RoundingGain]:
    """Read them. Raises ConfigError for a file that is missing or is none of ours."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["tensors"].items()
        return {
            str(name): RoundingGain(str(e["qtype"]), float(e["plain"]), float(e["kept"]), str(e["rounding"])) for name, e in entries
        }
    except FileNotFoundError:
        raise ConfigError(
            f"rounding gains {path} do not exist; an export with rounding = 'feedback' writes them beside the GGUF"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is no file of rounding gains; give the *{SUFFIX} that an export with feedback wrote") from None

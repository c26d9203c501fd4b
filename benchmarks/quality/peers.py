"""What others chose and scored, where the folder with their recipes is there: types by tensor, and the figures of a trial."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.errors import ModelFileError
from bitclass3_core.qtypes import qtype

PEER = "pr15550 --target-bpw"
STOCK = "stock"
TRIAL = "two-vector KL Hessian + exact solver (trial)"
TRIAL_FEEDBACK = "the same + block error feedback (trial)"
_RESULTS = "results.csv"


@dataclass(frozen=True, slots=True)
class Published:
    """Figures that somebody measured of a file at one size: WikiText-2 test, first 24 chunks of 512; the error is that of independent tokens."""

    n_bytes: int
    mean_kld: float
    se_kld: float
    median_kld: float
    p999_kld: float
    same_top1: float
    ppl: float


class Peers:
    """The folder of the peers' recipes and results; empty where it is not there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def has_recipe(self, size: str) -> bool:
        """Whether there is a recipe for the size of that mix."""
        return self._folder is not None and self._recipe_path(size).is_file()

    def _recipe_path(self, size: str) -> Path:
        return (self._folder or Path()) / f"pr15550-{size}.txt"

    def recipe(self, size: str) -> dict[str, str]:
        """Type by tensor. Raises ModelFileError for a file that is no recipe."""
        return read_recipe(self._recipe_path(size))

    def published(self) -> dict[tuple[str, str], Published]:
        """Figures by (size, method); none where there is no results file."""
        path = self._folder / _RESULTS if self._folder else None
        return read_published(path) if path and path.is_file() else {}


def read_recipe(path: Path) -> dict[str, str]:
    """Type by tensor of a file with lines ``tensor=type``. Raises ModelFileError for another line or an unknown type."""
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, equals, kind = line.strip().partition("=")
        if not equals:
            raise ModelFileError(f"recipe {path} line {number} is {line!r}, expected tensor=type")
        found[name] = qtype(kind.upper()).name
    return found


def check_recipe(recipe: Mapping[str, str], quantizable: frozenset[str], path: str) -> None:
    """Raise ModelFileError unless a recipe has exactly the tensors that may be quantized."""
    if set(recipe) != quantizable:
        odd = sorted(set(recipe) ^ quantizable)
        raise ModelFileError(f"recipe {path} is of another model: {len(odd)} tensors differ ({odd[0]}); remove it")


def read_published(path: Path) -> dict[tuple[str, str], Published]:
    """The rows of a results file by (size, method). Raises ModelFileError for a file that has other columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {(row["size_of"], row["method"]): _published(row) for row in csv.DictReader(file)}
    except (KeyError, ValueError, TypeError) as error:
        raise ModelFileError(f"results {path} cannot be read ({error}); remove the file or mend it") from None


def _published(row: Mapping[str, str]) -> Published:
    return Published(
        n_bytes=int(row["file_bytes"]),
        mean_kld=float(row["mean_kld"]),
        se_kld=float(row["se"]),
        median_kld=float(row["median_kld"]),
        p999_kld=float(row["p999_kld"]),
        same_top1=float(row["same_top1_percent"]) / 100,
        ppl=float(row["ppl"]),
    )

"""The cost table: what giving a tensor a type costs, in nats per token, and the SQLite file that keeps every measured cell."""

import math
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error, ModelFileError


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted KLD contribution of one tensor at one type, its standard error (0 if every row was measured), and rows measured.

    The cost is infinite if the tensor cannot have that type, as its blocks come out as NaN.
    """

    cost: float
    se: float
    n_rows: int


@dataclass(frozen=True, slots=True)
class CostTable:
    """``costs[tensor][qtype]``; ``in_nats`` is False if the sensitivity has no out_power: then costs say only which is larger."""

    costs: Mapping[str, Mapping[str, Cost]]
    in_nats: bool = True

    def multiplied(self, multipliers: Mapping[str, float]) -> "CostTable":
        """The table with each named tensor's costs and standard errors times its multiplier."""
        costs = {
            name: {q: Cost(cell.cost * factor, cell.se * factor, cell.n_rows) for q, cell in cells.items()}
            for name, cells in self.costs.items()
            for factor in (multipliers.get(name, 1.0),)
        }
        return CostTable(costs, self.in_nats)

    def total(self, qtypes: Mapping[str, str]) -> float | None:
        """Predicted cost of a whole allocation; None if a cell is missing or infinite."""
        cells = [self.costs.get(tensor, {}).get(q) for tensor, q in qtypes.items()]
        total = sum(cell.cost for cell in cells if cell) if all(cells) else math.inf
        return total if math.isfinite(total) else None


class CostStore:
    """Measured costs on disk, by the fingerprint of what they were made from; each tensor is saved as soon as it is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS cost (fingerprint TEXT, tensor TEXT, qtype TEXT, cost REAL, se REAL, n_rows INTEGER,"
                    " PRIMARY KEY (fingerprint, tensor, qtype))"
                )
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def _damaged(self, error: sqlite3.Error) -> ModelFileError:
        return ModelFileError(f"{self.path} is no cost table of bitclass3 ({error}); delete it and run again")

    def load(self, fingerprint: str) -> dict[str, dict[str, Cost]]:
        """Everything measured under that fingerprint, by tensor and qtype."""
        found: dict[str, dict[str, Cost]] = {}
        query = "SELECT tensor, qtype, cost, se, n_rows FROM cost WHERE fingerprint = ?"
        try:
            with closing(self._connect()) as connection:
                for tensor, q, cost, se, n_rows in connection.execute(query, (fingerprint,)):
                    found.setdefault(tensor, {})[q] = Cost(cost, se, n_rows)
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None
        return found

    def save(self, fingerprint: str, tensor: str, costs: Mapping[str, Cost]) -> None:
        """Keep one tensor's costs."""
        rows = [(fingerprint, tensor, q, cell.cost, cell.se, cell.n_rows) for q, cell in costs.items()]
        try:
            with self._lock, closing(self._connect()) as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO cost VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise Bitclass3Error(
                f"{self.path} cannot be written ({error}); make room and run again, what is measured is kept"
            ) from None

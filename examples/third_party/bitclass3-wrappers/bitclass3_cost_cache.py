"""Costs kept across run folders: what was measured once is not measured again for another target, machine restart or copy of a model.

Two functions for one hook: the first is asked before any plugin (``tryfirst``) and answers only what it has; the second goes around
(``wrapper``) and keeps what a plugin answered.
"""

import hashlib
import json
import os
from collections.abc import Generator
from pathlib import Path

from bitclass3_core import hookimpl
from bitclass3_core.at_work import at_work
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.files import digest_of, write_json
from bitclass3_core.kernels import library
from bitclass3_core.model import Model
from bitclass3_core.qtypes import QType
from bitclass3_core.sensitivity import Sensitivity, TensorSensitivity

BITCLASS3_API = 1


@hookimpl(tryfirst=True)
def bitclass3_measure(model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...]) -> CostTable | None:
    """The costs if they are known; None passes the question on."""
    path = _path(model, sensitivity, qtypes)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        costs = {name: {q: Cost(*cell) for q, cell in cells.items()} for name, cells in kept["costs"].items()}
        return CostTable(costs, kept["in_nats"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or damaged: measured again


@hookimpl(wrapper=True, specname="bitclass3_measure")
def keep_costs(model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...]) -> Generator[None, CostTable, CostTable]:
    """Let the plugin answer, and keep what it says."""
    table = yield
    path = _path(model, sensitivity, qtypes)
    if not path.is_file():
        costs = {name: {q: (c.cost, c.se, c.n_rows) for q, c in cells.items()} for name, cells in table.costs.items()}
        write_json(path, {"costs": costs, "in_nats": table.in_nats})
    return table


def _path(model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...]) -> Path:
    """A file whose name depends on everything that the costs depend on."""
    work = at_work()
    parts = {
        "model": model.fingerprint,
        "kernels": library().fingerprint,
        "metric": f"{work.plugin} {work.version}" if work else "",
        "options": work.options.model_dump(mode="json") if work and work.options else {},
        "types": [q.name for q in qtypes],
        "tensors": {name: _digest(sensitivity.tensors[name]) for name in model.tensors},
    }
    folder = Path(os.environ.get("BITCLASS3_COST_CACHE") or Path.home() / ".cache" / "bitclass3" / "costs")
    return folder / f"{digest_of(parts)}.json"


def _digest(tensor: TensorSensitivity) -> str:
    digest = hashlib.sha256(repr(sorted(tensor.activation.items())).encode())
    for role in ("linear", "lookup"):
        powers = getattr(tensor, role)
        for vector in (powers.in_power, powers.out_power) if powers else ():
            digest.update(f"{role} {None if vector is None else vector.shape}".encode())
            digest.update(b"" if vector is None else vector.tobytes())
    return digest.hexdigest()

"""Measured directly: pairs of tensors that swap bits, kept where the divergence falls; and single tensors, to hold the costs against."""

from collections.abc import Iterator

import numpy as np

from benchmarks.refinements.lab import Lab, Mix
from bitclass3_core.compare.predicted import Agreement, agreement
from bitclass3_core.model import padded
from bitclass3_core.problem import Allocation
from bitclass3_core.qtypes import qtype


def _moves(lab: Lab, mix: Mix) -> Iterator[tuple[str, str, int, float]]:
    """Every tensor at the next smaller and the next larger choice: (name, type, bytes more, cost more)."""
    for name, q in mix.items():
        known = lab.choices(name)
        place = known.index(q)
        for other in known[max(0, place - 1) : place] + known[place + 1 : place + 2]:
            info = lab.model.tensors[name]
            more = padded(info.n_bytes(qtype(other))) - padded(info.n_bytes(qtype(q)))
            yield name, other, more, lab.table[name][other] - lab.table[name][q]


def swap_search(lab: Lab, start: Mix, n_swaps: int) -> tuple[Mix, int]:
    """(the mix after the swaps that lowered the divergence on ``lab.judged``, how many): those that cost least by the table are tried."""
    mix = dict(start)
    room = lab.problem.budget_bytes - lab.pipeline.quantizable_bytes(Allocation(mix))
    best = float(lab.divergences(mix, lab.judged).mean())
    tried: set[tuple[str, str]] = set()
    kept = 0
    lab.progress.begin("swaps", n_swaps)
    for _ in range(n_swaps):
        moves = [move for move in _moves(lab, mix) if move[:2] not in tried]
        up, down = [m for m in moves if m[2] > 0], [m for m in moves if m[2] < 0]
        pairs = [(a, b) for a in up for b in down if a[0] != b[0] and a[2] + b[2] <= room]
        if not pairs:
            break
        a, b = min(pairs, key=lambda pair: pair[0][3] + pair[1][3])
        tried |= {a[:2], b[:2]}
        changed = {**mix, a[0]: a[1], b[0]: b[1]}
        now = float(lab.divergences(changed, lab.judged).mean())
        if now < best:
            mix, best, kept = changed, now, kept + 1
            room -= a[2] + b[2]
        lab.progress.advance()
    return mix, kept


def probes(lab: Lab, n_probes: int, seed: int = 0) -> Agreement | None:
    """Single tensors at the type that the base mix gives them: predicted against measured."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.array(sorted(lab.base)))[:n_probes].tolist()
    measured = {}
    lab.progress.begin("single tensors", len(names))
    for name in names:
        measured[name] = float(lab.divergences({name: lab.base[name]}, lab.judged).mean())
        lab.progress.advance()
    return agreement({name: lab.table[name][lab.base[name]] for name in names}, measured)

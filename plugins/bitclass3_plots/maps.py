"""The two maps of a model: the types that the solver chose, and the sensitivity scores."""

from typing import TYPE_CHECKING

from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Run
from bitclass3_plots.grid import Cells, map_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DECADES = 5  # of the score that the colours tell apart


def type_figure(run: Run) -> "Figure | None":
    """The type of every tensor, coloured by its bits per weight; None if the allocation is empty."""
    from matplotlib.colors import Normalize

    qtypes = {name: q for name, q in run.ours.allocation.qtypes.items() if name in run.model.tensors}
    if not qtypes:
        return None
    bpw = {name: qtype(q).bpw for name, q in qtypes.items()}
    # one type alone still needs a range
    low, high = min(bpw.values()), max(*bpw.values(), min(bpw.values()) + 1)
    title = f"{run.model.name}: type of every tensor at {run.ours.bpw:.2f} bpw"
    return map_figure(run.model, Cells(bpw, qtypes, title, "bits per weight of the type"), Normalize(low, high))


def _short(score: float) -> str:
    """At most five characters: ``0.12``, ``3e-5``."""
    if score >= 0.001 or score == 0:
        return f"{score:.2g}"
    mantissa, exponent = f"{score:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def score_figure(run: Run) -> "Figure | None":
    """The score of every tensor on a logarithmic scale; None if the estimator gave none."""
    from matplotlib.colors import LogNorm

    scores = {name: score for name, score in run.sensitivity.scores().items() if name in run.model.tensors}
    positive = [score for score in scores.values() if score > 0]
    if not positive:
        return None
    high = max(positive)
    low = max(min(*positive, high / 10), high / 10**_DECADES)
    shown = {name: max(score, low) for name, score in scores.items()}
    texts = {name: _short(score) for name, score in scores.items()}
    title = f"{run.model.name}: sensitivity score of every tensor ({run.sensitivity.estimator})"
    return map_figure(run.model, Cells(shown, texts, title, "score: mean in_power, largest = 1 (logarithmic)"), LogNorm(low, high))

"""The levels of a ladder side by side: the share of the weights that each type has in every file."""

from collections import Counter
from typing import TYPE_CHECKING

from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Candidate, Run
from bitclass3_plots.style import COLOUR_MAP, LARGE, NORMAL, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_LABELLED = 0.05  # of the weights: a narrower part has no room for its name


def _shares(run: Run, candidate: Candidate) -> dict[str, float]:
    """Share of the quantizable weights by type."""
    weights: Counter[str] = Counter()
    for name, q in candidate.allocation.qtypes.items():
        weights[q] += run.model.tensors[name].n_params
    return {q: n / weights.total() for q, n in weights.items()}


def _ink(colour: tuple[float, ...]) -> str:
    """Black on light colours, white on dark ones."""
    return "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5 else "white"


def levels_figure(run: Run) -> "Figure | None":
    """Stacked bars, the largest file on top; None for a run that is no ladder."""
    from matplotlib import colormaps

    made = [(level.name, level.candidate) for level in run.levels if level.candidate]
    if len(made) < 2:
        return None
    made.sort(key=lambda pair: -pair[1].file_bytes)
    shares = [_shares(run, candidate) for _, candidate in made]
    types = sorted({q for share in shares for q in share}, key=lambda q: (qtype(q).bpw, q))
    colours = {q: colormaps[COLOUR_MAP](i / max(1, len(types) - 1)) for i, q in enumerate(types)}
    figure = new_figure(8.0, 1.4 + 0.55 * len(made))
    axes = figure.add_subplot()
    for y, share in enumerate(shares):
        left = 0.0
        for q in (q for q in types if q in share):
            axes.barh(y, share[q], left=left, color=colours[q], edgecolor="white", linewidth=0.6)
            if share[q] >= _LEAST_LABELLED:
                axes.text(left + share[q] / 2, y, q, ha="center", va="center", fontsize=SMALL - 1, color=_ink(colours[q]))
            left += share[q]
    axes.set_yticks(range(len(made)), [f"{name}\n{candidate.bpw:.2f} bpw" for name, candidate in made], fontsize=SMALL + 1)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the quantizable weights", fontsize=NORMAL)
    axes.set_title(f"{run.model.name}: types in every file", fontsize=LARGE, parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [axes.barh(0, 0, color=colours[q], label=q) for q in types]
    figure.legend(handles=handles, fontsize=SMALL, frameon=False, loc="outside right center")
    return figure

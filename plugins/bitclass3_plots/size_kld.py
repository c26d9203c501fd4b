"""File size against mean KLD, every file of the run labelled at its point."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitclass3_core.run import Candidate, Run
from bitclass3_plots.labels import place_labels
from bitclass3_plots.style import BLUE, LARGE, NORMAL, ORANGE, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GB_FROM = 10_000_000_000  # bytes of the largest file from which the axis is in GB
_NARROW = 8.0  # largest over smallest value below which ticks are set as on a linear axis


@dataclass(frozen=True, slots=True)
class Point:
    """One measured file."""

    label: str
    kind: str
    size: float
    kld: float
    se: float
    ours: bool


def _label(run: Run, candidate: Candidate) -> str:
    """The candidate's name without the model's, which the title has."""
    short = candidate.name.removeprefix(run.model.name).lstrip("-_. ")
    return short or candidate.name


def _points(run: Run, unit_bytes: float) -> list[Point]:
    """What can be shown on a logarithmic axis, by size."""
    found = []
    for candidate in run.candidates:
        measured = candidate.evaluation
        if measured is None or not measured.mean_kld > 0:
            continue
        se = measured.se_kld if math.isfinite(measured.se_kld) else 0.0
        size = candidate.file_bytes / unit_bytes
        found.append(Point(_label(run, candidate), candidate.kind, size, measured.mean_kld, se, candidate is run.ours))
    return sorted(found, key=lambda point: point.size)


def _draw_series(axes: "Axes", points: list[Point], name: str, colour: str, marker: str) -> None:
    x, y = [point.size for point in points], [point.kld for point in points]
    # a bar that reached zero would run off a logarithmic axis
    below = [min(point.se, 0.9 * point.kld) for point in points]
    bars = [below, [point.se for point in points]]
    line = "-" if len(points) > 1 else "none"
    axes.errorbar(x, y, yerr=bars, color=colour, marker=marker, markersize=6, linestyle=line, linewidth=1.5, capsize=3, label=name)


def _scale(axes: "Axes", points: list[Point]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = min(point.kld - min(point.se, 0.9 * point.kld) for point in points), max(point.kld + point.se for point in points)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.5, high * 1.5)
    narrow = 2.25 * high / low < _NARROW
    axes.yaxis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    sizes = [point.size for point in points]
    margin = 0.18 * (max(sizes) - min(sizes)) or 0.05 * max(sizes)
    axes.set_xlim(min(sizes) - margin, max(sizes) + margin)


def size_kld_figure(run: Run) -> "Figure | None":
    """The plot, or None if nothing was measured."""
    large = max(candidate.file_bytes for candidate in run.candidates) >= _GB_FROM
    points = _points(run, 1e9 if large else 1e6)
    measured = next((candidate.evaluation for candidate in run.candidates if candidate.evaluation), None)
    if not points or measured is None:
        return None
    figure = new_figure(7.5, 4.8)
    axes = figure.add_subplot()
    _scale(axes, points)
    for name, colour, marker, stock in (("bitclass3", BLUE, "o", False), ("llama.cpp stock mix", ORANGE, "s", True)):
        series = [point for point in points if (point.kind == "stock") == stock]
        if series:
            _draw_series(axes, series, name, colour, marker)
    axes.set_xlabel(f"file size ({'GB' if large else 'MB'}, decimal)", fontsize=NORMAL)
    axes.set_ylabel("mean KLD (nats per token, ± 1 standard error)", fontsize=NORMAL)
    axes.set_title(
        f"{run.model.name}: file size and mean KLD from the source, {measured.n_tokens:,} tokens", fontsize=LARGE, parse_math=False
    )
    axes.grid(which="major", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL + 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=SMALL + 1, frameon=False, loc="upper right")
    place_labels(figure, axes, points)
    return figure

"""File size against mean KLD, every file of the run labelled at its point."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitclass3_core.compare.comparison import COMPARED
from bitclass3_core.results import Candidate, Run
from bitclass3_plots.labels import place_labels
from bitclass3_plots.style import COLOURS, LARGE, NORMAL, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GB_FROM = 10_000_000_000  # bytes of the largest file from which the axis is in GB
_ROOM = 1.5  # factor above and below the data
_NARROW = 6.0  # upper over lower limit below which ticks stand closer
_FINE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
_SERIES = {"ours": ("bitclass3", "o"), "stock": ("llama.cpp stock mix", "s"), COMPARED: ("compared file", "D")}
_LEAST_SPAN = 0.1  # of the largest file


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
        found.append(
            Point(
                _label(run, candidate),
                candidate.kind,
                size,
                measured.mean_kld,
                se,
                candidate is run.ours and candidate.kind == "ours",
            )
        )
    return sorted(found, key=lambda point: point.size)


def _draw_series(axes: "Axes", points: list[Point], name: str, colour: str, marker: str) -> None:
    x, y = [point.size for point in points], [point.kld for point in points]
    # a bar that reached zero would run off a logarithmic axis
    below = [min(point.se, 0.9 * point.kld) for point in points]
    bars = [below, [point.se for point in points]]
    line = "-" if len(points) > 1 and points[0].kind != COMPARED else "none"  # files of many makers are no series
    axes.errorbar(x, y, yerr=bars, color=colour, marker=marker, markersize=6, linestyle=line, linewidth=1.5, capsize=3, label=name)


def _scale(axes: "Axes", points: list[Point]) -> None:
    """Limits with room for labels, and never so narrow that sizes or divergences that are nearly equal look far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = min(point.kld - min(point.se, 0.9 * point.kld) for point in points), max(point.kld + point.se for point in points)
    axes.set_yscale("log")
    axes.set_ylim(low / _ROOM, high * _ROOM)
    narrow = _ROOM**2 * high / low < _NARROW
    axes.yaxis.set_major_locator(LogLocator(subs=_FINE if narrow else (1, 2, 5), numticks=15))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if narrow:
        axes.yaxis.set_minor_locator(NullLocator())
    smallest, largest = min(point.size for point in points), max(point.size for point in points)
    half = max(0.68 * (largest - smallest), _LEAST_SPAN / 2 * largest)
    axes.set_xlim((smallest + largest) / 2 - half, (smallest + largest) / 2 + half)
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")


def _decorate(axes: "Axes", unit: str, title: str) -> None:
    axes.set_xlabel(f"file size ({unit}, decimal)", fontsize=NORMAL)
    axes.set_ylabel("mean KLD (nats per token, ± 1 standard error)", fontsize=NORMAL)
    axes.set_title(title, fontsize=LARGE, parse_math=False)
    axes.grid(which="major", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL + 1)
    axes.spines[["top", "right"]].set_visible(False)


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
    for kind, (name, marker) in _SERIES.items():
        series, colour = [point for point in points if point.kind == kind], COLOURS[kind]
        if series:
            _draw_series(axes, series, name, colour, marker)
    _decorate(
        axes, "GB" if large else "MB", f"{run.model.name}: file size and mean KLD from the source, {measured.n_tokens:,} tokens"
    )
    # outside: within the axes its markers would look like data
    figure.legend(fontsize=SMALL + 1, frameon=False, loc="outside lower center", ncols=3)
    place_labels(figure, axes, points)
    return figure

"""File size against mean KLD, every file of the run labelled at its point, where the label covers nothing that is there already."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitclass3_core.compare.comparison import COMPARED
from bitclass3_core.results import Run
from bitclass3_plots.style import COLOURS, LARGE, NORMAL, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_GB_FROM = 10_000_000_000  # bytes of the largest file from which the axis is in GB
_ROOM = 1.5  # factor above and below the data
_NARROW = 6.0  # upper over lower limit below which ticks stand closer
_FINE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
_SERIES = {"ours": ("bitclass3", "o"), "stock": ("llama.cpp stock mix", "s"), COMPARED: ("compared file", "D")}
_LEAST_SPAN = 0.1  # of the largest file
# offsets in points from the marker's centre, with the label's alignment: below left and above right first, as the curves fall
_FALLING = ((-8, -7, "right", "top"), (8, 7, "left", "bottom"))
_OTHERS = (
    *((8, -7, "left", "top"), (-8, 7, "right", "bottom"), (0, -12, "center", "top"), (0, 12, "center", "bottom")),
    *((10, 0, "left", "center"), (-10, 0, "right", "center"), (12, -20, "left", "top"), (-12, 20, "right", "bottom")),
    *((-12, -20, "right", "top"), (12, 20, "left", "bottom"), (0, -30, "center", "top"), (0, 30, "center", "bottom")),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured file; ``ours`` is this run's own, whose label is bold."""

    label: str
    kind: str
    size: float
    kld: float
    se: float
    ours: bool

    @property
    def below(self) -> float:
        """Length of the bar below the point: one that reached zero would run off a logarithmic axis."""
        return min(self.se, 0.9 * self.kld)


def _points(run: Run, unit_bytes: float) -> list[Point]:
    """What can be shown on a logarithmic axis, by size; labels leave out the model's name, which the title has."""
    found = []
    for candidate in run.candidates:
        measured = candidate.evaluation
        if measured is not None and measured.mean_kld > 0:
            label = candidate.name.removeprefix(run.model.name).lstrip("-_. ") or candidate.name
            se = measured.se_kld if math.isfinite(measured.se_kld) else 0.0
            ours = candidate is run.ours and candidate.kind == "ours"
            found.append(Point(label, candidate.kind, candidate.file_bytes / unit_bytes, measured.mean_kld, se, ours))
    return sorted(found, key=lambda point: point.size)


def _draw_series(axes: "Axes", points: list[Point]) -> None:
    for kind, (name, marker) in _SERIES.items():
        series = [point for point in points if point.kind == kind]
        if not series:
            continue
        x, y = [point.size for point in series], [point.kld for point in series]
        bars = [[point.below for point in series], [point.se for point in series]]
        line = "-" if len(series) > 1 and kind != COMPARED else "none"  # files of many makers are no series
        look: dict[str, Any] = {"color": COLOURS[kind], "marker": marker, "markersize": 6, "linestyle": line, "linewidth": 1.5}
        axes.errorbar(x, y, yerr=bars, capsize=3, label=name, **look)


def _scale(axes: "Axes", points: list[Point]) -> None:
    """Limits with room for labels, and never so narrow that sizes or divergences that are nearly equal look far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = min(point.kld - point.below for point in points), max(point.kld + point.se for point in points)
    axes.set_yscale("log")
    axes.set_ylim(low / _ROOM, high * _ROOM)
    narrow = _ROOM**2 * high / low < _NARROW
    axes.yaxis.set_major_locator(LogLocator(subs=_FINE if narrow else (1, 2, 5), numticks=15))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if narrow:
        axes.yaxis.set_minor_locator(NullLocator())
    smallest, largest = points[0].size, points[-1].size
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


def _boxes_of_lines(axes: "Axes", points: list[Point]) -> "list[Bbox]":
    """Small boxes along the markers and along the lines that join the points of a kind."""
    from matplotlib.transforms import Bbox

    boxes = []
    for kind in {point.kind for point in points}:
        places = axes.transData.transform([(point.size, point.kld) for point in points if point.kind == kind])
        for i, begin in enumerate(places):
            end = places[min(i + 1, len(places) - 1)]
            n_steps = max(2, int(np.hypot(*(end - begin)) / 4))
            boxes += [Bbox.from_bounds(x - 2, y - 2, 4, 4) for x, y in np.linspace(begin, end, n_steps)]
        boxes += [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in places]
    return boxes


def _n_covered(box: "Bbox", taken: "list[Bbox]", inside: "Bbox") -> int:
    fits = box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y0 >= inside.y0 and box.y1 <= inside.y1
    return sum(bool(box.overlaps(other)) for other in taken) + (0 if fits else 1000)


def _move(note: Any, place: tuple[int, int, str, str]) -> Any:
    """Put the label there; returns the box that it takes."""
    x, y, horizontal, vertical = place
    note.set(position=(x, y), ha=horizontal, va=vertical)
    return note.get_window_extent()


def _place_labels(figure: "Figure", axes: "Axes", points: list[Point]) -> None:
    """Label every point at the first free place around it, or at the one that covers least."""
    figure.draw_without_rendering()  # the layout must stand before boxes can be measured
    inside = axes.get_window_extent()
    taken = _boxes_of_lines(axes, points)
    lowest = min(points, key=lambda point: point.kld).kind
    for point in sorted(points, key=lambda point: not point.ours):
        places = (*(_FALLING if point.kind == lowest else _FALLING[::-1]), *_OTHERS)
        style: dict[str, Any] = {"color": COLOURS[point.kind], "weight": "bold" if point.ours else "normal", "fontsize": SMALL + 1}
        note = axes.annotate(point.label, (point.size, point.kld), (0, 0), textcoords="offset points", parse_math=False, **style)
        note.set_in_layout(False)
        best = min(places, key=lambda place: _n_covered(_move(note, place), taken, inside))  # of equals the first
        taken.append(_move(note, best))


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
    _draw_series(axes, points)
    title = f"{run.model.name}: file size and mean KLD from the source, {measured.n_tokens:,} tokens"
    _decorate(axes, "GB" if large else "MB", title)
    # outside: within the axes its markers would look like data
    figure.legend(fontsize=SMALL + 1, frameon=False, loc="outside lower center", ncols=3)
    _place_labels(figure, axes, points)
    return figure

"""Labels beside their points, each where it covers nothing that is there already."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bitclass3_plots.style import COLOURS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# offsets in points from the marker's centre, with the label's alignment: below left and above right first, as the curves fall
_FALLING = ((-8, -7, "right", "top"), (8, 7, "left", "bottom"))
_OTHERS = (
    *((8, -7, "left", "top"), (-8, 7, "right", "bottom"), (0, -12, "center", "top"), (0, 12, "center", "bottom")),
    *((10, 0, "left", "center"), (-10, 0, "right", "center"), (12, -20, "left", "top"), (-12, 20, "right", "bottom")),
    *((-12, -20, "right", "top"), (12, 20, "left", "bottom"), (0, -30, "center", "top"), (0, 30, "center", "bottom")),
)


class Labelled(Protocol):
    """What is placed: a text at a point of the axes."""

    @property
    def label(self) -> str:
        """Text."""

    @property
    def kind(self) -> str:
        """``ours``, ``stock`` or ``compared``."""

    @property
    def size(self) -> float:
        """x."""

    @property
    def kld(self) -> float:
        """y."""

    @property
    def ours(self) -> bool:
        """Whether it is this run's own file: bold."""


def _boxes_of_lines(axes: "Axes", points: Sequence[Labelled]) -> "list[Bbox]":
    """Small boxes along the markers and along the lines that join the points of a kind."""
    import numpy as np
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


def place_labels(figure: "Figure", axes: "Axes", points: Sequence[Labelled]) -> None:
    """Label every point at the first free place around it, or at the one that covers least."""
    figure.draw_without_rendering()  # the layout must stand before boxes can be measured
    inside = axes.get_window_extent()
    taken = _boxes_of_lines(axes, points)
    lowest = min({point.kind for point in points}, key=lambda kind: min(point.kld for point in points if point.kind == kind))
    for point in sorted(points, key=lambda point: not point.ours):
        places = (*(_FALLING if point.kind == lowest else _FALLING[::-1]), *_OTHERS)
        style: dict[str, Any] = {
            "color": COLOURS[point.kind],
            "weight": "bold" if point.ours else "normal",
            "fontsize": SMALL + 1,
        }
        note = axes.annotate(point.label, (point.size, point.kld), (0, 0), textcoords="offset points", parse_math=False, **style)
        note.set_in_layout(False)
        best = min(places, key=lambda place: (_n_covered(_move(note, place), taken, inside), places.index(place)))
        taken.append(_move(note, best))


def _move(note: Any, place: tuple[int, int, str, str]) -> Any:
    """Put the label there; returns the box that it takes."""
    x, y, horizontal, vertical = place
    note.set(position=(x, y), ha=horizontal, va=vertical)
    return note.get_window_extent()

"""How all plots look, and how they reach the disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from bitclass3_core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision
COLOURS = {"ours": "#0072B2", "stock": "#D55E00", "compared": "#00795B"}
SMALL, NORMAL, LARGE = 8, 10, 11  # points
COLOUR_MAP = "viridis"
BLANK = "#F2F2F2"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure in inches, drawn by Agg, outside of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path, dpi: int) -> None:
    """Write a PNG that appears under its name only when complete."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)  # the temporary name says nothing of the format

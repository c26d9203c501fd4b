"""The two maps of a model: the types that the solver chose, and the sensitivity scores.

A map has one row per block, one column per role, and the tensors outside of the blocks in a strip below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bitclass3_core.model import Model
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Run
from bitclass3_plots.style import BLANK, COLOUR_MAP, LARGE, NORMAL, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL_WIDTH, _LEAST_WIDTH, _SIDES = 0.66, 6.5, 0.9  # inches
_CELL_HEIGHT, _MAX_HEIGHT, _HEAD, _BAR = 0.27, 26.0, 2.0, 0.14
_TEXT_HEIGHT = 0.15  # a lower row has no room for text
_SHORT_NAME = 11  # characters that fit below a cell
_DARK = 0.18  # relative luminance below which white text has the stronger contrast
_DECADES = 5  # of the score that the colours tell apart
_ORDER = (
    *("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_gate", "attn_output", "attn"),
    *("ssm", "ffn_gate", "ffn_up", "ffn_down", "ffn"),
)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Value and short text of every tensor shown, by name; the title, and what the values are."""

    values: Mapping[str, float]
    texts: Mapping[str, str]
    title: str
    unit: str


@dataclass(frozen=True, slots=True)
class _Panel:
    """Which tensor stands in which cell (row, column), and the labels."""

    cells: Mapping[tuple[int, int], str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """How cells are coloured and how high they are, in inches."""

    cells: _Cells
    norm: Any
    colours: Any
    row_height: float


def _role_key(role: str) -> tuple[int, str]:
    rank = next((i for i, start in enumerate(_ORDER) if role == start or role.startswith(f"{start}_")), len(_ORDER))
    return rank, role


def _block_panel(model: Model, names: list[str]) -> _Panel:
    infos = [model.tensors[name] for name in names]
    blocks = sorted({info.block for info in infos if info.block is not None})
    roles = sorted({info.role for info in infos if info.block is not None}, key=_role_key)
    cells = {(blocks.index(info.block), roles.index(info.role)): info.name for info in infos if info.block is not None}
    return _Panel(cells, tuple(map(str, blocks)), tuple(roles))


def _outer_panel(model: Model, names: list[str]) -> _Panel:
    outer = [name for name in names if model.tensors[name].block is None]
    outer.sort(key=lambda name: (not name.startswith("token_embd"), name))
    return _Panel({(0, i): name for i, name in enumerate(outer)}, ("",), tuple(model.tensors[name].role for name in outer))


def _is_dark(rgba: tuple[float, float, float, float]) -> bool:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgba[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < _DARK


def _draw(axes: "Axes", panel: _Panel, n_columns: int, look: _Look) -> Any:
    """Colour and label the panel's cells; returns the image for the colour bar."""
    shape = len(panel.rows), n_columns
    values = np.full(shape, np.nan)
    for (row, column), name in panel.cells.items():
        values[row, column] = value = look.cells.values[name]
        if look.row_height >= _TEXT_HEIGHT:
            colour = "white" if _is_dark(look.colours(look.norm(value))) else "black"
            axes.text(column, row, look.cells.texts[name], ha="center", va="center", fontsize=SMALL, color=colour)
    masked = np.ma.masked_invalid(values)
    image = axes.imshow(masked, cmap=look.colours, norm=look.norm, aspect="auto", interpolation="nearest")
    axes.set_xticks(np.arange(-0.5, shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=1 if look.row_height >= _TEXT_HEIGHT else 0)
    axes.tick_params(which="both", length=0, labelsize=SMALL + 1)
    axes.spines[:].set_visible(False)
    return image


def _draw_blocks(axes: "Axes", panel: _Panel, n_columns: int, look: _Look) -> Any:
    image = _draw(axes, panel, n_columns, look)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**6) if step * look.row_height >= _TEXT_HEIGHT)
    axes.set_yticks(range(0, len(panel.rows), step), panel.rows[::step])
    axes.set_ylabel("block", fontsize=NORMAL)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=40, ha="left", rotation_mode="anchor")
    return image


def _draw_outer(axes: "Axes", panel: _Panel, n_columns: int, look: _Look) -> Any:
    strip = replace(look, colours=look.colours.with_extremes(bad="white"), row_height=_CELL_HEIGHT)
    image = _draw(axes, panel, n_columns, strip)
    axes.set_yticks([0], ["others"])
    long = max(map(len, panel.columns)) > _SHORT_NAME
    slanted: dict[str, Any] = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(panel.columns)), panel.columns, fontsize=SMALL, **slanted)
    return image


def _map_figure(model: Model, cells: _Cells, norm: Any) -> "Figure":
    """The map of ``cells``; it grows with blocks and roles, and leaves out texts that would not fit."""
    from matplotlib import colormaps

    names = [name for name in cells.values if name in model.tensors]
    inner, outer = _block_panel(model, names), _outer_panel(model, names)
    n_rows, n_columns = len(inner.rows), max(len(inner.columns), len(outer.columns), 1)
    look = _Look(cells, norm, colormaps[COLOUR_MAP].with_extremes(bad=BLANK), min(_CELL_HEIGHT, _MAX_HEIGHT / max(1, n_rows)))
    drawn = {"blocks": (inner, n_rows * look.row_height, _draw_blocks), "others": (outer, _CELL_HEIGHT, _draw_outer)}
    parts = {key: part for key, part in drawn.items() if part[0].cells}
    heights = [_BAR, *(height for _, height, _ in parts.values())]
    figure = new_figure(max(_LEAST_WIDTH, _SIDES + n_columns * _CELL_WIDTH), _HEAD + sum(heights))
    axes: dict[str, Axes] = figure.subplot_mosaic([["bar"], *([key] for key in parts)], gridspec_kw={"height_ratios": heights})
    images = [draw(axes[key], panel, n_columns, look) for key, (panel, _, draw) in parts.items()]
    figure.colorbar(images[0], cax=axes["bar"], orientation="horizontal", format="%g")
    axes["bar"].tick_params(labelsize=SMALL)
    axes["bar"].set_xlabel(cells.unit, fontsize=SMALL + 1)
    figure.suptitle(cells.title, fontsize=LARGE, parse_math=False)
    return figure


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
    return _map_figure(run.model, _Cells(bpw, qtypes, title, "bits per weight of the type"), Normalize(low, high))


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
    return _map_figure(
        run.model, _Cells(shown, texts, title, "score: mean in_power, largest = 1 (logarithmic)"), LogNorm(low, high)
    )

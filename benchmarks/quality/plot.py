"""File size against mean KLD, one panel for each text, one line for each recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitclass3_plots.style import COLOURS, LARGE, NORMAL, SMALL, new_figure, save

from benchmarks.quality.making import SIZES
from benchmarks.quality.peers import TRIAL, TRIAL_FEEDBACK, Published
from benchmarks.quality.tables import LABELS, TextTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREEN, _PURPLE, _GREY, _SKY = "#009E73", "#CC79A7", "#888888", "#56B4E9"  # Okabe and Ito's, as those of all plots


@dataclass(frozen=True, slots=True)
class _Look:
    label: str
    colour: str
    marker: str
    line: str = "-"


_LOOKS = {
    "stock": _Look(f"llama.cpp, {LABELS['stock']}", COLOURS["stock"], "s"),
    "peer": _Look(f"llama.cpp, {LABELS['peer']}", _PURPLE, "D"),
    TRIAL: _Look("trial, plain", _GREY, "x", ":"),
    TRIAL_FEEDBACK: _Look("trial, block feedback", _GREY, "+", "--"),
    "plain": _Look(LABELS["plain"], _GREEN, "^"),
    "feedback": _Look(LABELS["feedback"], COLOURS["ours"], "o"),
    "tuned": _Look(LABELS["tuned"], _SKY, "*"),
}
_Points = list[tuple[float, float, float]]  # megabytes, mean KLD, its error


def quality_figure(tables: Sequence[TextTable], published: Mapping[tuple[str, str], Published]) -> "Figure | None":
    """The figure; None if there is nothing to show."""
    if not tables:
        return None
    figure = new_figure(5.2 * len(tables) if len(tables) > 1 else 7.5, 5.2)
    panels = figure.subplots(1, len(tables), squeeze=False, sharex=True)[0]  # a text may have fewer sizes than another
    handles = {}
    for axes, table in zip(panels, tables, strict=True):
        for name, points in _series(table, published).items():
            handles[name] = _draw(axes, _LOOKS[name], points)
        _decorate(axes, table)
    panels[0].set_ylabel("mean KLD (nats per token, ± 1 standard error)", fontsize=NORMAL)
    shown = [name for name in _LOOKS if name in handles]
    figure.legend(
        [handles[name] for name in shown],
        [_LOOKS[name].label for name in shown],
        fontsize=SMALL + 1,
        frameon=False,
        loc="outside lower center",
        ncols=min(len(shown), 6 if len(tables) > 1 else 3),
    )
    return figure


def _series(table: TextTable, published: Mapping[tuple[str, str], Published]) -> dict[str, _Points]:
    """Points by recipe, those of the trial where they are of this text."""
    series: dict[str, _Points] = {}
    for name in _LOOKS:
        if name in LABELS:
            rows = [row for row in table.rows if row.recipe == name]
            points = [(row.facts.n_bytes / 1e6, row.evaluation.mean_kld, row.evaluation.se_kld) for row in rows]
        else:
            measured = {row.size for row in table.rows} if table.is_the_goals else set()
            found = [known for (size, method), known in published.items() if method == name and size in measured]
            points = [(known.n_bytes / 1e6, known.mean_kld, known.se_kld) for known in found]
        if points:
            series[name] = sorted(points)
    return series


def _draw(axes: "Axes", look: _Look, points: _Points) -> Any:
    sizes, means = [size for size, _, _ in points], [mean for _, mean, _ in points]
    below = [min(se, 0.9 * mean) for _, mean, se in points]  # a bar that reached zero would run off a logarithmic axis
    bars = [below, [se for _, _, se in points]]
    line = look.line if len(points) > 1 else "none"
    return axes.errorbar(
        sizes, means, yerr=bars, color=look.colour, marker=look.marker, markersize=5, linestyle=line, linewidth=1.4, capsize=2
    )


def _decorate(axes: "Axes", table: TextTable) -> None:
    """Axes, and the mixes whose sizes these are as marks at the top."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=15))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("file size (MB, decimal)", fontsize=NORMAL)
    axes.set_title(f"{table.title}, {table.n_chunks} chunks", fontsize=LARGE, pad=44, parse_math=False)
    largest = {
        size: max(row.facts.n_bytes for row in table.rows if row.size == size) / 1e6
        for size in SIZES
        if any(r.size == size for r in table.rows)
    }
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(largest.values()), list(largest), rotation=60, ha="left", rotation_mode="anchor", fontsize=SMALL)
    for place in largest.values():
        axes.axvline(place, color="#EEEEEE", linewidth=0.8, zorder=0)
    axes.margins(x=0.08)
    axes.grid(which="major", axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL + 1)
    axes.spines[["top", "right"]].set_visible(False)


def write_plot(tables: Sequence[TextTable], published: Mapping[tuple[str, str], Published], path: Path) -> bool:
    """Write the figure as a PNG; returns whether there was anything to show."""
    figure = quality_figure(tables, published)
    if figure is not None:
        save(figure, path, 150)
    return figure is not None

"""Report ``plots``: size against mean KLD, the type and the score of every tensor, as PNG files in ``plots/``."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.options import PluginOptions
from bitclass3_core.results import Run
from bitclass3_plots.levels import levels_figure
from bitclass3_plots.maps import score_figure, type_figure
from bitclass3_plots.size_kld import size_kld_figure
from bitclass3_plots.style import save

BITCLASS3_ANSWERS = "677e1d89f9b5"  # changes when the answers do


class PlotsOptions(PluginOptions):
    """``dpi`` is the resolution of the files, ``only`` the plots to write (all of them unless told)."""

    dpi: int = Field(default=150, ge=100, le=600)
    only: tuple[Literal["size_kld", "levels", "types", "sensitivity"], ...] = ("size_kld", "levels", "types", "sensitivity")


_FIGURES = {"size_kld": size_kld_figure, "levels": levels_figure, "types": type_figure, "sensitivity": score_figure}


@hookimpl
def bitclass3_report(run: Run, out: Path, options: PlotsOptions) -> list[Path]:
    """Write the plots that the run has data for; one that it has none for is removed, so that no earlier run's stays."""
    written = []
    for name in options.only:
        figure, path = _FIGURES[name](run), out / "plots" / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        save(figure, path, options.dpi)
        written.append(path)
    return written

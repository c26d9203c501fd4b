"""Report ``plots``: size against mean KLD, the type and the score of every tensor, as PNG files in ``plots/``."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bitclass3_core import hookimpl
from bitclass3_core.results import Run
from bitclass3_plots.maps import score_figure, type_figure
from bitclass3_plots.size_kld import size_kld_figure
from bitclass3_plots.style import save


class PlotsOptions(BaseModel):
    """``dpi`` is the resolution of the files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dpi: int = Field(default=150, ge=100, le=600)


@hookimpl
def bitclass3_report(run: Run, out: Path, options: PlotsOptions) -> list[Path]:
    """Write the plots that the run has data for; one that it has none for is removed, so that no earlier run's stays."""
    figures = {"size_kld": size_kld_figure(run), "types": type_figure(run), "sensitivity": score_figure(run)}
    written = []
    for name, figure in figures.items():
        path = out / "plots" / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        save(figure, path, options.dpi)
        written.append(path)
    return written

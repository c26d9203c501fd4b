"""Report ``model-card``: the README.md of a release, written from what the run measured and from nothing else."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bitclass3_core import hookimpl
from bitclass3_core.files import write_text
from bitclass3_core.results import Run
from bitclass3_model_card.benchmark import benchmark_section
from bitclass3_model_card.closing import disclaimer_section, license_section, plots_section, usage_section
from bitclass3_model_card.comparison import comparison_section
from bitclass3_model_card.findings import findings_section
from bitclass3_model_card.front_matter import front_matter
from bitclass3_model_card.intro import intro_section
from bitclass3_model_card.method import method_section
from bitclass3_model_card.tables import quantizations_section


class ModelCardOptions(BaseModel):
    """``title`` replaces the heading made from the model's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str | None = None


def model_card(run: Run, out: Path, title: str | None = None) -> str:
    """The card's text; plots are embedded if they already stand in ``out/plots``."""
    sections = (
        intro_section(run, title),
        quantizations_section(run),
        comparison_section(run),
        findings_section(run),
        method_section(run),
        usage_section(run),
        plots_section(out),
        benchmark_section(run),
        disclaimer_section(run),
        license_section(run),
    )
    return front_matter(run) + "\n" + "\n\n".join(section for section in sections if section) + "\n"


@hookimpl
def bitclass3_report(run: Run, out: Path, options: ModelCardOptions) -> list[Path]:
    """Write ``README.md``; plots made before it in the same run are embedded."""
    path = out / "README.md"
    write_text(path, model_card(run, out, options.title))
    return [path]

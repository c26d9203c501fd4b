"""Report ``model-card``: the README.md of a release, written only from what the run measured."""

from pathlib import Path

from bitclass3_core import hookimpl
from bitclass3_core.files import write_text
from bitclass3_core.options import PluginOptions
from bitclass3_core.results import Run
from bitclass3_model_card.benchmark import benchmark_section
from bitclass3_model_card.comparison import comparison_section, published_figures
from bitclass3_model_card.findings import findings_section
from bitclass3_model_card.method import method_section
from bitclass3_model_card.sections import disclaimer_section, intro_section, plots_section, usage_section
from bitclass3_model_card.source import front_matter, license_of, license_section
from bitclass3_model_card.tables import quantizations_section

BITCLASS3_ANSWERS = "f15ddfa57767"  # changes when the answers do


class ModelCardOptions(PluginOptions):
    """``title`` replaces the heading with the model's name. ``license`` (a hub's identifier) replaces the licence that the source names.

    ``repo`` is the repository's name on the hub. ``compared`` lists results of bitclass3 compare (compare.json), ``published`` TOML files
    with figures that others published. ``other_run`` is the folder of a run whose sensitivity is compared with this one's.
    """

    title: str | None = None
    license: str | None = None
    repo: str | None = None
    compared: tuple[Path, ...] = ()
    published: tuple[Path, ...] = ()
    other_run: Path | None = None


def model_card(run: Run, out: Path, options: ModelCardOptions) -> str:
    """The card's text; plots that are in ``out/plots`` are embedded."""
    found, figures = license_of(run, options.license), published_figures(options.published)
    sections = (
        intro_section(run, options.title),
        quantizations_section(run),
        comparison_section(run, options.compared, figures),
        findings_section(run, options.other_run),
        method_section(run),
        usage_section(run, options.repo),
        plots_section(out),
        benchmark_section(run),
        disclaimer_section(run, bool(options.compared), figures),
        license_section(run, found),
    )
    return front_matter(run, found) + "\n" + "\n\n".join(section for section in sections if section) + "\n"


@hookimpl
def bitclass3_report(run: Run, out: Path, options: ModelCardOptions) -> list[Path]:
    """Write ``README.md``; plots that the same run made before are embedded."""
    path = out / "README.md"
    write_text(path, model_card(run, out, options))
    return [path]

"""Plots, disclaimer and licence."""

from collections.abc import Sequence
from pathlib import Path

from bitclass3_core.results import Run
from bitclass3_model_card.compared import Figure
from bitclass3_model_card.source import License
from bitclass3_model_card.text import code, plain

_CAPTIONS = {
    "size_kld.png": "File size against mean KLD",
    "levels.png": "Types in every file",
    "types.png": "Type of every tensor",
    "sensitivity.png": "Sensitivity score of every tensor",
}


def plots_section(out: Path) -> str:
    """The plots in ``out/plots``; empty if there are none."""
    names = sorted(path.name for path in (out / "plots").glob("*.png"))
    known = [name for name in _CAPTIONS if name in names]
    ordered = known + [name for name in names if name not in _CAPTIONS]
    images = [f"![{_CAPTIONS.get(name, plain(Path(name).stem))}](<plots/{name}>)" for name in ordered]
    return "\n\n".join(["## Plots", *images]) if images else ""


def disclaimer_section(run: Run, compared: bool, published: Sequence[Figure]) -> str:
    """Whose figures these are, and that the project is independent."""
    others = (
        " Figures of files made by others are our own measurements of the files named; they may have changed since."
        if compared
        else ""
    )
    theirs = " Published figures are their publishers' own, taken as found." if published else ""
    measured = any(candidate.evaluation for candidate in run.candidates)
    figures = (
        " The measured figures hold for the evaluation text and the versions named above; other text gives other figures."
        if measured
        else ""
    )
    return (
        "## Disclaimer\n\nIndependent project. Not affiliated with or endorsed by the authors of"
        f" {plain(run.model.name)} or of llama.cpp.{figures}{others}{theirs}"
    )


def license_section(run: Run, found: License | None) -> str:
    """The licence that the source names, or that there is none."""
    if found is None:
        return "## License\n\nNeither the source's metadata nor its model card name a license: see the source model."
    label = f"{code(found.identifier)}{f' ({plain(found.name)})' if found.name else ''}{f' ({plain(found.link)})' if found.link else ''}"
    inherited = (
        f"inherited from {plain(run.model.name)} (from {found.where})" if found.where.startswith("the source") else found.where
    )
    return f"## License\n\n{label}, {inherited}."

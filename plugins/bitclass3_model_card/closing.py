"""Usage, plots, disclaimer and licence."""

import shlex
from pathlib import Path

from bitclass3_core.results import Run
from bitclass3_model_card.facts import file_name, text_value
from bitclass3_model_card.text import code, plain

_CAPTIONS = {
    "size_kld.png": "File size against mean KLD",
    "types.png": "Type of every tensor",
    "sensitivity.png": "Sensitivity score of every tensor",
}


def usage_section(run: Run) -> str:
    """Commands that load the file."""
    if run.ours.path is None:
        return "## Usage\n\nThis run wrote no GGUF."
    file = shlex.quote(file_name(run.ours))
    commands = f"llama-cli    -m {file} -cnv\nllama-server -m {file} --port 8080"
    return f"## Usage\n\nWith llama.cpp:\n\n```sh\n{commands}\n```"


def plots_section(out: Path) -> str:
    """The plots that stand in ``out/plots``; empty if there are none."""
    names = sorted(path.name for path in (out / "plots").glob("*.png"))
    known = [name for name in _CAPTIONS if name in names]
    ordered = known + [name for name in names if name not in _CAPTIONS]
    images = [f"![{_CAPTIONS.get(name, plain(Path(name).stem))}](<plots/{name}>)" for name in ordered]
    return "\n\n".join(["## Plots", *images]) if images else ""


def disclaimer_section(run: Run) -> str:
    """Who stands behind the figures, and who does not."""
    measured = any(candidate.evaluation for candidate in run.candidates)
    figures = (
        " The measured figures hold for the evaluation text and the versions named above; other text gives other figures."
        if measured
        else ""
    )
    return (
        "## Disclaimer\n\nIndependent project. Not affiliated with or endorsed by the authors of"
        f" {plain(run.model.name)} or of llama.cpp.{figures}"
    )


def license_section(run: Run) -> str:
    """The licence that the source's metadata name."""
    metadata = run.model.metadata
    name = text_value(metadata, "general.license.name") or text_value(metadata, "general.license")
    link = text_value(metadata, "general.license.link")
    if not name:
        return "## License\n\nThe source's metadata names no license: see the source model."
    where = f" ({plain(link)})" if link else ""
    return f"## License\n\n{code(name)}{where}, inherited from {plain(run.model.name)}."

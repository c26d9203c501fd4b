"""Title and first paragraph of the card."""

from bitclass3_core.model import total_params
from bitclass3_core.results import Run
from bitclass3_model_card.facts import source_qtype
from bitclass3_model_card.text import code, counted, megabytes, n_weights, number, plain


def intro_section(run: Run, title: str | None) -> str:
    """The heading, and what the release is."""
    ours, name = run.ours, plain(run.model.name)
    qtypes = ours.allocation.qtypes
    heading = plain(title) if title else f"{name}: bitclass3 mixed-precision GGUF"
    n_types = counted(len(set(qtypes.values())), "quantization type")
    weights = f"{code(run.model.arch)} architecture, " if run.model.arch else ""
    return (
        f"# {heading}\n\n"
        f"Mixed-precision GGUF quantization of {name} ({weights}{n_weights(total_params(run.model))} weights, source in"
        f" {source_qtype(run)}). bitclass3 measures how much every weight matrix matters, prices each one at every type on its menu"
        f" with ggml's own kernels, and solves for the type of every tensor at a given size. Here {counted(len(qtypes), 'tensor')}"
        f" {'shares' if len(qtypes) == 1 else 'share'} {n_types}: {number(ours.bpw, 3)} bits per weight (bpw), {megabytes(ours.file_bytes)}."
    )

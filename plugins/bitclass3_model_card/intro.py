"""Title and first paragraph of the card."""

from bitclass3_core.model import total_params
from bitclass3_core.results import Run
from bitclass3_model_card.facts import source_qtype
from bitclass3_model_card.text import code, counted, megabytes, n_weights, number, plain


def _levels(run: Run) -> str:
    """A sentence on the files of a ladder; empty for a run of one size."""
    made = [level.candidate for level in run.levels if level.candidate]
    if not made:
        return ""
    low, high = (pick(made, key=lambda candidate: candidate.file_bytes) for pick in (min, max))
    return (
        f"Here are {counted(len(made), 'file')} from one measurement, {number(low.bpw, 3)} to {number(high.bpw, 3)} bits per weight"
        f" (bpw), {megabytes(low.file_bytes)} to {megabytes(high.file_bytes)}."
    )


def intro_section(run: Run, title: str | None) -> str:
    """The heading and the first paragraph."""
    ours, name = run.ours, plain(run.model.name)
    qtypes = ours.allocation.qtypes
    heading = plain(title) if title else f"{name}: bitclass3 mixed-precision GGUF"
    n_types = counted(len(set(qtypes.values())), "quantization type")
    weights = f"{code(run.model.arch)} architecture, " if run.model.arch else ""
    here = _levels(run) or (
        f"Here {counted(len(qtypes), 'tensor')} {'shares' if len(qtypes) == 1 else 'share'} {n_types}: {number(ours.bpw, 3)} bits per"
        f" weight (bpw), {megabytes(ours.file_bytes)}."
    )
    return (
        f"# {heading}\n\n"
        f"Mixed-precision GGUF quantization of {name} ({weights}{n_weights(total_params(run.model))} weights, source in"
        f" {source_qtype(run)}). bitclass3 measures how much every weight matrix matters, prices each one at every type on its menu"
        f" with ggml's own kernels, and solves for the type of every tensor at a given size. {here}"
    )

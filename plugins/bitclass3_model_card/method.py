"""How It Works: five points, each with this run's own figures."""

from collections.abc import Mapping

from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf.rounding_gains import SUFFIX, load_gains, load_tuning, mean_left
from bitclass3_core.problem import Allocation
from bitclass3_core.results import Run
from bitclass3_model_card.text import code, counted, file_name, number

_MEAN_SQUARES = ("kl-hessian", "hessian-diag", "imatrix", "kld-probe")


def _plugin(run: Run, stage: str) -> str:
    """The plugin that the run's configuration names for a stage; empty if it does not say."""
    section = run.config.get(stage)
    plugin = section.get("plugin") if isinstance(section, Mapping) else None
    return ", ".join(plugin) if isinstance(plugin, list) else str(plugin or "")


def _named(name: str) -> str:
    return f" ({code(name)})" if name else ""


def _sensitivity(run: Run) -> str:
    found = run.sensitivity
    powers = "the mean square" if found.estimator in _MEAN_SQUARES else "a weight"
    text = (
        f"**Sensitivity** ({code(found.estimator)}, {found.n_tokens:,} calibration tokens in windows of {found.n_ctx:,}): {powers} of each"
        " input channel (in_power)"
    )
    if found.estimator == "kld-probe":
        return (
            f"{text}, times one measured number for each class of tensors in each band of depth: the KL divergence of the model with"
            " that group alone at a low type, over the group's weighted error. That makes costs nats per token."
        )
    if not found.in_nats:
        return f"{text}, the diagonal of the layer-wise Hessian. No out_power is known, so costs only rank the choices."
    sampled = (
        ", from a backward pass with labels sampled from the model's own predictions" if found.estimator == "kl-hessian" else ""
    )
    return (
        f"{text} and what an error costs in each output channel (out_power{sampled}). From both comes the diagonal of the Hessian of the"
        " KL divergence."
    )


def _prices(run: Run) -> str:
    names = {name for cells in run.costs.costs.values() for name in cells}
    n_cells = sum(len(cells) for cells in run.costs.costs.values())
    plugin = _plugin(run, "measure")
    error = "its weight error, weighted by that diagonal, is" if plugin in ("", "weighted-error") else "what that changes gives"
    unit = "in nats per token" if run.costs.in_nats else "in no absolute unit"
    return (
        f"**Cost table**{_named(plugin)}: every tensor is quantized with ggml's own kernels to each type that its rows"
        f" accept ({counted(len(names), 'type')}, {counted(n_cells, 'cell')}); {error} the predicted cost {unit}."
    )


def _proof(allocation: Allocation, in_nats: bool) -> str:
    proof = allocation.proof
    if proof is None:
        return "This solver gives no proof."
    unit = " nats per token" if in_nats else ""
    state = "Proven optimal" if proof.optimal else "Stopped before the proof was complete"
    gap = f"{100 * proof.gap:.2g}" if proof.gap > 0 else "0"
    return f"{state}: no allocation within the budget costs less than {number(proof.bound)}{unit}, gap {gap} %, {number(proof.seconds, 2)} s."


def _solver(run: Run) -> str:
    ours = run.ours
    total = f" Cost of the answer: {number(ours.predicted_cost)}." if ours.predicted_cost is not None else ""
    asked = f" Constraints that were asked for: {'; '.join(code(line) for line in run.constraints)}." if run.constraints else ""
    return (
        f"**Solver**{_named(ours.allocation.solver)}: one type for every tensor within the size, chosen by total cost.{asked}{total}"
        f" {_proof(ours.allocation, run.costs.in_nats)}"
    )


def _export(run: Run) -> str:
    what = f"**Export**{_named(_plugin(run, 'export'))}:"
    if run.ours.path is None:
        return f"{what} this run wrote no GGUF."
    how = " ".join(["all types are ggml's own.", *_rounding(run)])
    return f"{what} {code(file_name(run.ours))}, quantized tensor by tensor from the source; {how}"


def _rounding(run: Run) -> list[str]:
    """What error feedback and tuning gained, if the exporter wrote that beside the file."""
    record = run.ours.path.with_suffix(SUFFIX) if run.ours.path else None
    if record is None or not record.is_file():
        return []
    try:
        gains, tuning = load_gains(record), load_tuning(record)
    except ConfigError:
        return []
    lines = []
    if gains:
        lines.append(
            f"Error feedback rounded {counted(len(gains), 'tensor')}: columns take up each other's error, which leaves"
            f" {number(mean_left(gains), 2)} of plain rounding's part of the KL divergence in the mean over tensors."
        )
    if tuning and tuning.is_kept:
        lines.append(
            "The scales of all blocks were then tuned to the source's predictions: KLD"
            f" {number(tuning.before)} before and {number(tuning.after)} after, on calibration text that they were not tuned on."
        )
    return lines


def method_section(run: Run) -> str:
    """The numbered list."""
    imatrix = "**imatrix**: in_power is also the importance matrix by which ggml's kernels weigh the columns of a row."
    points = (_sensitivity(run), _prices(run), _solver(run), imatrix, _export(run))
    return "## How It Works\n\n" + "\n".join(f"{number}. {point}" for number, point in enumerate(points, 1))

"""The table of files with the measured figures of each; of a ladder also uses, the recommended file, and how each was chosen."""

import math

from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import bpw, data_bytes
from bitclass3_core.release.record import PPL_WITHIN, ppl_change
from bitclass3_core.results import Candidate, Contender, Run, Selection
from bitclass3_model_card.text import (
    NOT_MEASURED,
    bullets,
    code,
    file_name,
    listed,
    megabytes,
    number,
    percent,
    plain,
    plus_minus,
    table,
)

_HEADER = ("File", "BPW", "Size", "PPL ↓", "KL-mean ↓", "KL-median ↓", "KL-99 % ↓", "KL-99.9 % ↓", "Same top-1 ↑")
# (largest share by which PPL is above the source's, use of such a file); files above all of them are for small memories
_USES = ((0.001, "Near-lossless reference"), (0.005, "High quality"), (0.02, "Balanced quality and size"))
_SMALL = "Where memory decides"
_SOLVED = {"ours": "the solver's answer", "fitted": "the solver's answer to costs fitted on measured mixes"}


def made(run: Run) -> list[Candidate]:
    """The files of a ladder, in the order asked for; empty for a run of one size."""
    return [level.candidate for level in run.levels if level.candidate]


def _ppl(ppl: float, se: float) -> str:
    """PPL with five digits: its error comes from the text and is common to all files, and PPLs differ by far less."""
    return f"{number(ppl, 5)} ± {number(se, 2)}" if math.isfinite(se) else number(ppl, 5)


def _measured(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return [NOT_MEASURED] * 6
    return [
        _ppl(evaluation.ppl, evaluation.se_ppl),
        plus_minus(evaluation.mean_kld, evaluation.se_kld),
        *(number(kld, 3) for kld in (evaluation.median_kld, evaluation.p99_kld, evaluation.p999_kld)),
        percent(evaluation.same_top1, evaluation.se_same_top1),
    ]


def _row(run: Run, candidate: Candidate) -> list[str]:
    label = code(file_name(candidate))
    if candidate is run.ours:
        label = f"**{label}**"
    elif not run.levels:
        label += " (stock mix)" if candidate.kind == "stock" else " (another target)"
    use = [_use_case(run, candidate)] if run.levels else []
    return [label, f"{candidate.bpw:.2f}", megabytes(candidate.file_bytes), *_measured(candidate.evaluation), *use]


def _source_row(run: Run, evaluation: Evaluation | None) -> list[str]:
    """The source's figures; its size is that of its tensors if it is split into several files."""
    path = run.model.path
    size = megabytes(max(path.stat().st_size if path.is_file() else 0, data_bytes(run.model, {})))
    ppl = _ppl(evaluation.reference_ppl, evaluation.se_reference_ppl) if evaluation else NOT_MEASURED
    rest = [NOT_MEASURED] * (6 if run.levels else 5)
    return [f"{code(path.name)} (source)", f"{bpw(run.model, {}):.2f}", size, ppl, *rest]


def _use_case(run: Run, candidate: Candidate) -> str:
    """The use of a file in a few words, from its measured PPL and its place on the ladder."""
    evaluation, files = candidate.evaluation, made(run)
    if evaluation is None:
        return NOT_MEASURED
    words = next((use for share, use in _USES if ppl_change(evaluation) <= share), _SMALL)
    if len(files) > 1 and candidate.file_bytes == min(other.file_bytes for other in files):
        words = "Maximum compression"
    return f"{words}, recommended" if candidate is run.ours and len(files) > 1 else words


def _legend(run: Run, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "KL divergence and PPL were not measured in this run."
    missing = [code(file_name(candidate)) for candidate in run.candidates if candidate.evaluation is None]
    note = f" Not measured: {listed(missing)}." if missing else ""
    return (
        "KL is the divergence of the next-token distribution from the source's, in nats per token: mean, median and upper"
        f" percentiles over {evaluation.n_tokens:,} tokens; ± is one standard error. Same top-1 is the share of tokens at which the"
        f" likeliest next token is the source's.{note}"
    )


def _legend_of_uses() -> str:
    bounds = ", ".join(f"{use.lower()}: PPL at most {100 * share:g} % above the source's" for share, use in _USES)
    return f"Use case by measured PPL ({bounds}); the smallest file is called maximum compression."


def _recommendation(run: Run) -> str:
    """The recommended level, and the rule by which it was found; empty without a ladder of measured files."""
    ours, evaluation = run.ours, run.ours.evaluation
    if len(made(run)) < 2 or evaluation is None:
        return ""
    change, within = (
        ppl_change(evaluation),
        f"PPL is within {100 * PPL_WITHIN:g} % of the source's ({100 * ppl_change(evaluation):+.2f} %",
    )
    why = f"the smallest file whose {within})" if change <= PPL_WITHIN else f"the lowest mean KLD; no file's {within} here)"
    return f"Recommended: {code(file_name(ours))}, {why}; KL-mean {number(evaluation.mean_kld, 3)} at {megabytes(ours.file_bytes)}."


def _other(other: Contender, winner: Contender) -> str:
    who = _SOLVED.get(other.how, plain(other.how))
    if other.difference is None:
        return f"{who} {other.mean_kld - winner.mean_kld:+.4f} (not paired)"
    mean, se = other.difference
    sure = "" if abs(mean) > 2 * se else ", within twice the error"
    return f"{who} {'+' if mean >= 0 else ''}{plus_minus(mean, se)}{sure}"


def _chosen(name: str, selection: Selection) -> str:
    """The winner of a selection, the others against it, and the cost multipliers that were fitted."""
    winner = selection.winner
    if selection.stock_won:
        what = f"llama.cpp's own {plain(winner.how)} mix was the best and **is what this file holds**"
    else:
        what = f"{_SOLVED.get(winner.how) or f'the variation {code(winner.how)}'} was the best"
    others = "; ".join(_other(other, winner) for other in selection.contenders[1:])
    told = f". Others against it: {others}." if others else "."
    factors = ", ".join(f"{code(role)} {number(factor, 3)}" for role, factor in selection.multipliers.items())
    fitted = f" Costs of each role, fitted on measured mixes of this size, times: {factors}." if factors else ""
    return f"{code(name)}: {what}, {plus_minus(winner.mean_kld, winner.se_kld)}{told}{fitted}"


def _selections(run: Run) -> str:
    """For every file that was chosen among candidates: the winner and the differences; empty if there is no such file."""
    names = [candidate.name for candidate in made(run) or [run.ours]]
    lines = [_chosen(name, run.selections[name]) for name in names if name in run.selections]
    if not lines:
        return ""
    head = (
        "Each file was chosen by measured mean KLD among candidates no larger than asked, over"
        f" {next(iter(run.selections.values())).n_tokens:,} tokens of text that neither calibrated it nor is scored in the table (± is one"
        " standard error; differences are paired on the same tokens):"
    )
    return f"{head}\n\n{bullets(lines)}"


def _domains(run: Run) -> str:
    domains = run.ours.evaluation.domains if run.ours.evaluation else {}
    if len(domains) < 2:
        return ""
    return "KL-mean of ours by domain:\n\n" + bullets(f"{plain(domain)}: {number(kld)}" for domain, kld in sorted(domains.items()))


def quantizations_section(run: Run) -> str:
    """The section: the levels of a ladder, largest first, as only they are released, or every file of the run; the source last."""
    evaluation = next((candidate.evaluation for candidate in run.candidates if candidate.evaluation), None)
    files = sorted(made(run), key=lambda candidate: -candidate.file_bytes) or run.candidates
    rows = [*(_row(run, candidate) for candidate in files), _source_row(run, evaluation)]
    parts = (
        _legend(run, evaluation),
        table((*_HEADER, "Use Case") if run.levels else _HEADER, rows),
        _legend_of_uses() if run.levels and evaluation else "",
        _recommendation(run),
        bullets(f"{plain(level.name)} could not be made: {plain(level.error)}." for level in run.levels if level.error),
        _selections(run),
        _domains(run),
    )
    return "\n\n".join(part for part in ("## Available Quantizations", *parts) if part)

"""The table of files with the measured figures of each."""

import math

from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import bpw
from bitclass3_core.results import Candidate, Run
from bitclass3_model_card.facts import file_name, source_bytes
from bitclass3_model_card.levels import failures, legend, recommendation, selections, use_case
from bitclass3_model_card.text import NOT_MEASURED, bullets, code, listed, megabytes, number, percent, plain, plus_minus, table

_HEADER = ("File", "BPW", "Size", "PPL ↓", "KL-mean ↓", "KL-median ↓", "KL-99 % ↓", "KL-99.9 % ↓", "Same top-1 ↑")
_KINDS = {"stock": "stock mix"}


def _ppl(ppl: float, se: float) -> str:
    """PPL with five digits: its error comes from the text and is common to all files, and PPLs differ by far less."""
    return f"{number(ppl, 5)} ± {number(se, 2)}" if math.isfinite(se) else number(ppl, 5)


def _measured(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return [NOT_MEASURED] * 6
    return [
        _ppl(evaluation.ppl, evaluation.se_ppl),
        plus_minus(evaluation.mean_kld, evaluation.se_kld),
        number(evaluation.median_kld, 3),
        number(evaluation.p99_kld, 3),
        number(evaluation.p999_kld, 3),
        percent(evaluation.same_top1, evaluation.se_same_top1),
    ]


def _row(candidate: Candidate, ours: bool, released: bool) -> list[str]:
    name = code(file_name(candidate))
    label = f"**{name}**" if ours else name if released else f"{name} ({_KINDS.get(candidate.kind, 'another target')})"
    return [label, f"{candidate.bpw:.2f}", megabytes(candidate.file_bytes), *_measured(candidate.evaluation)]


def _source_row(run: Run, evaluation: Evaluation | None) -> list[str]:
    ppl = _ppl(evaluation.reference_ppl, evaluation.se_reference_ppl) if evaluation else NOT_MEASURED
    label = f"{code(run.model.path.name)} (source)"
    return [label, f"{bpw(run.model, {}):.2f}", megabytes(source_bytes(run)), ppl, *[NOT_MEASURED] * 5]


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


def _domains(run: Run) -> str:
    domains = run.ours.evaluation.domains if run.ours.evaluation else {}
    if len(domains) < 2:
        return ""
    return "KL-mean of ours by domain:\n\n" + bullets(f"{plain(domain)}: {number(kld)}" for domain, kld in sorted(domains.items()))


def _files(run: Run) -> list[Candidate]:
    """The levels of a ladder, largest first, as only they are released; without a ladder all files of the run."""
    released = [level.candidate for level in run.levels if level.candidate]
    return sorted(released, key=lambda candidate: -candidate.file_bytes) or list(run.candidates)


def quantizations_section(run: Run) -> str:
    """The section: every file of the run, the source last; for a ladder also uses, the recommended file, and how each was chosen."""
    evaluation = next((candidate.evaluation for candidate in run.candidates if candidate.evaluation), None)
    rows = [_row(candidate, candidate is run.ours, bool(run.levels)) for candidate in _files(run)]
    source = _source_row(run, evaluation)
    header: tuple[str, ...] = _HEADER
    if run.levels:
        rows = [[*row, use_case(run, candidate)] for row, candidate in zip(rows, _files(run), strict=True)]
        header, source = (*_HEADER, "Use Case"), [*source, NOT_MEASURED]
    words = legend() if run.levels and evaluation else ""
    body = table(header, [*rows, source])
    parts = (_legend(run, evaluation), body, words, recommendation(run), failures(run), selections(run), _domains(run))
    return "\n\n".join(part for part in ("## Available Quantizations", *parts) if part)

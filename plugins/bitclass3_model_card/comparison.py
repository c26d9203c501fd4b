"""Our file beside others: the stock mix of the same size, files by others measured on this run's text, and published figures."""

import math
from collections.abc import Sequence
from pathlib import Path

import tomli
from pydantic import BaseModel, Field, ValidationError

from bitclass3_core.compare.comparison import compared_with
from bitclass3_core.errors import ConfigError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.results import Candidate, Run
from bitclass3_model_card.text import NOT_MEASURED, code, file_name, megabytes, number, plain, plus_minus, table

_HEADER = ("File", "BPW", "Size", "PPL ↓", "KL-mean ↓", "KL-99.9 % ↓", "Source")


class Figure(BaseModel, extra="forbid", frozen=True):
    """One file's figures as its publisher gives them; ``source`` is the address or title where they are."""

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    bpw: float | None = None
    size: str = ""
    ppl: float | None = None
    kl_mean: float | None = None
    kl_p999: float | None = None


class Figures(BaseModel, extra="forbid", frozen=True):
    """A file of published figures: ``[[figures]]`` tables in TOML."""

    figures: list[Figure]


def published_figures(paths: Sequence[Path]) -> list[Figure]:
    """The figures of TOML files. Raises ConfigError if a file is missing or no TOML, or if a row has no name or source."""
    found: list[Figure] = []
    for path in paths:
        try:
            found += Figures.model_validate(tomli.loads(path.read_text(encoding="utf-8"))).figures
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
            raise ConfigError(f"published figures {path}: {where}; each needs a name and a source") from None
        except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
            raise ConfigError(f"published figures {path} cannot be read: {error}") from None
    return found


def _measured_row(candidate: Candidate, source: str) -> list[str]:
    figures, cells = candidate.evaluation, [NOT_MEASURED] * 3
    if figures is not None:
        cells = [number(figures.ppl, 5), plus_minus(figures.mean_kld, figures.se_kld), number(figures.p999_kld, 3)]
    return [code(file_name(candidate)), f"{candidate.bpw:.2f}", megabytes(candidate.file_bytes), *cells, source]


def compared_table(run: Run, paths: Sequence[Path]) -> str:
    """This run's files and the compared ones by size, each with the source of its figures; empty if nothing was compared."""
    others = [
        (candidate, f"made by others, measured by us ({code(path.name)})")
        for path in paths
        for candidate in compared_with(run, [path])
    ]
    if not others:
        return ""
    sources = {"stock": "llama.cpp's own mix, made and measured in this run"}
    own = [(candidate, sources.get(candidate.kind, "this run")) for candidate in run.candidates]
    rows = [_measured_row(*pair) for pair in sorted([*own, *others], key=lambda pair: pair[0].file_bytes)]
    return f"All rows are measured by us on the same text, against the same source:\n\n{table(_HEADER, rows)}"


def published_table(figures: Sequence[Figure]) -> str:
    """The figures that others published of their own files; empty if none were given."""
    if not figures:
        return ""
    rows = [
        [
            plain(f.name),
            NOT_MEASURED if f.bpw is None else f"{f.bpw:.2f}",
            plain(f.size) or NOT_MEASURED,
            *(NOT_MEASURED if value is None else number(value) for value in (f.ppl, f.kl_mean, f.kl_p999)),
            plain(f.source),
        ]
        for f in figures
    ]
    head = "Published by others, not measured here. Their text, settings and programs differ, so these rows cannot be set against those above:"
    return f"{head}\n\n{table(_HEADER, rows)}"


def stock_at_same_size(run: Run) -> Candidate | None:
    """The stock mix whose file is nearest in size to ours; None if the run has no stock mix."""
    mixes = [candidate for candidate in run.candidates[1:] if candidate.kind == "stock"]
    return min(mixes, key=lambda mix: abs(mix.file_bytes - run.ours.file_bytes), default=None)


def _bytes(ours: Candidate, stock: Candidate) -> str:
    less, mix = stock.file_bytes - ours.file_bytes, f"llama.cpp's stock mix {code(file_name(stock))}"
    if less == 0:
        return f"Ours and {mix} have the same size."
    share = 100 * abs(less) / stock.file_bytes
    percent = number(share, 2) if share >= 0.01 else "under 0.01"
    return f"Ours is {abs(less):,} bytes {'smaller' if less > 0 else 'larger'} ({percent} %) than {mix}."


def _verdict(mean: float, se: float, other: Evaluation) -> str:
    if not math.isfinite(se):
        return "the error of the difference is unknown, so this run does not tell the two apart"
    if abs(mean) <= 2 * se:
        return "that is within twice its standard error, so this run does not tell the two apart"
    share = f" by {100 * abs(mean) / other.mean_kld:.1f} %" if other.mean_kld > 0 else ""
    return f"the mean KLD of ours is {'lower' if mean < 0 else 'higher'}{share}, by more than twice the standard error"


def _against_stock(run: Run) -> str:
    """A paragraph on ours against the stock mix nearest in size: only measured figures, with their errors."""
    stock, ours = stock_at_same_size(run), run.ours.evaluation
    if stock is None:
        return "No stock mix of llama.cpp was part of this run."
    other, against = stock.evaluation, _bytes(run.ours, stock)
    if ours is None or other is None:
        return f"{against} The divergence of the two was not measured, so nothing is said of their quality."
    if stock.name in run.differences:
        (mean, se), how = run.differences[stock.name], "paired on the same tokens"
    else:
        mean, se, how = ours.mean_kld - other.mean_kld, math.hypot(ours.se_kld, other.se_kld), "not paired"
    return (
        f"{against} Mean KLD is {number(ours.mean_kld)} (ours) against {number(other.mean_kld)} (stock); the difference, {how}, is"
        f" {plus_minus(mean, se)} nats per token: {_verdict(mean, se, other)}."
    )


def _beside(ours: Candidate, mix: Candidate, difference: tuple[float, float] | None) -> list[str]:
    klds = [number(c.evaluation.mean_kld) if c.evaluation else NOT_MEASURED for c in (ours, mix)]
    paired = plus_minus(*difference) if difference else NOT_MEASURED
    return [code(file_name(ours)), f"{ours.file_bytes:,}", klds[0], code(file_name(mix)), f"{mix.file_bytes:,}", klds[1], paired]


def _levels_beside_stock(run: Run) -> str:
    """A table of every level beside the stock mix that was measured with it; empty if there is none."""
    stock = {candidate.name: candidate for candidate in run.candidates if candidate.kind == "stock"}
    rows = [
        _beside(level.candidate, stock[level.baseline], level.difference)
        for level in run.levels
        if level.candidate and level.baseline in stock
    ]
    header = ("File", "Bytes", "KL-mean ↓", "Stock mix", "Bytes", "KL-mean ↓", "Difference, paired")
    head = "Every file beside the smallest stock mix of llama.cpp that is no smaller (same imatrix, same text):"
    return f"{head}\n\n{table(header, rows)}" if rows else ""


def comparison_section(run: Run, compared: Sequence[Path], published: Sequence[Figure]) -> str:
    """The section: every level of a ladder beside its stock mix, else ours beside one; then the files of others."""
    parts = (_levels_beside_stock(run) or _against_stock(run), compared_table(run, compared), published_table(published))
    return "\n\n".join(["## How It Compares", *(part for part in parts if part)])

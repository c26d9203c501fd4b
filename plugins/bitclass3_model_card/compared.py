"""Files by others: measured by bitclass3 compare on this run's text, and, in another table, figures that others published."""

from collections.abc import Sequence
from pathlib import Path

import tomli
from pydantic import BaseModel, Field, ValidationError

from bitclass3_core.compare.comparison import compared_with
from bitclass3_core.errors import ConfigError
from bitclass3_core.results import Candidate, Run
from bitclass3_model_card.facts import file_name
from bitclass3_model_card.text import NOT_MEASURED, code, megabytes, number, plain, plus_minus, table

_HEADER = ("File", "BPW", "Size", "PPL ↓", "KL-mean ↓", "KL-99.9 % ↓", "Source")
_SOURCES = {"ours": "this run", "stock": "llama.cpp's own mix, made and measured in this run"}


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
        except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
            raise ConfigError(f"published figures {path} cannot be read: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"published figures {path}: {where}: {first['msg'].lower()}; each needs a name and a source"
            ) from None
    return found


def _measured_row(candidate: Candidate, source: str) -> list[str]:
    figures = candidate.evaluation
    cells = [NOT_MEASURED] * 3
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
    own = [(candidate, _SOURCES.get(candidate.kind, _SOURCES["ours"])) for candidate in run.candidates]
    rows = [_measured_row(candidate, source) for candidate, source in sorted([*own, *others], key=lambda pair: pair[0].file_bytes)]
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

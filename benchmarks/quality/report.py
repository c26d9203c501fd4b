"""The section of docs/benchmarks.md with all tables and the plot, from the results alone."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.quality.peers import Published
from benchmarks.quality.plot import write_plot
from benchmarks.quality.results import Results
from benchmarks.quality.section import write_section
from benchmarks.quality.tables import TextTable, details, overview, predictions, shortfalls, text_tables
from benchmarks.quality.texts import DEFAULT_TEXTS, STABILITY_TEXTS, TEXT_NAMES, usual_chunks

SECTION = "quality"
GROUP = "texts"  # of the results
PLOT = Path("images") / "quality.png"
_ABOUT = """\
smol768 is SmolLM2-135M-Instruct made wider (768 channels, 229 M weights, untied head; `benchmarks/quality/widening.py`), so that its tensors take every
ggml type; its function is the original's, and it comes out the same to the last bit on every machine. The source is its F16 GGUF. Every file is at most as
large as llama.cpp's own mix of the size named, and is measured by llama-perplexity against the source, mean KLD in nats per token, ± one standard error
between groups of chunks; differences are paired on the same tokens (negative: less divergence). All are calibrated on the same text, which shares nothing with the
texts that are measured on: stock's and the peer's files with an imatrix of 60 chunks by llama-imatrix, ours with what one run of bitclass3 estimates."""
_FILES = """\
*Plain rounding* is written by stock llama-quantize; *error feedback* holds the same types, [rounded better](how-to/round-better.md),
*scales tuned* (`--effort high`) that file after its block scales were tuned.
*PR #15550* is llama.cpp's proposed `--target-bpw`: its choice of types, written by llama-quantize with the same imatrix as stock's."""
_PUBLISHED = "In parentheses, and as *trial*: what was measured before of such files, calibrated on other text, its errors those of independent tokens."


def command(results: Results, group: str, what: str = "") -> str:
    """The command that makes the tables of a group of texts."""
    texts: Mapping[str, Mapping[str, int]] = results.facts.get(group, {})
    usual = usual_chunks()
    chunks = {text["n_chunks"] for name, text in texts.items() if text["n_chunks"] != usual.get(name)}
    parts = ["python -m benchmarks.quality", what]
    named = tuple(name for name in TEXT_NAMES if name in texts)
    parts += [f"--texts {','.join(named)}"] if named and named not in (DEFAULT_TEXTS, STABILITY_TEXTS) else []
    parts += [f"--chunks {n}" for n in sorted(chunks)]
    parts += [f"--set {shlex.quote(setting)}" for setting in results.facts.get("settings", [])]
    return " ".join(part for part in parts if part)


def quality_lines(results: Results, tables: Sequence[TextTable], published: Mapping[tuple[str, str], Published]) -> list[str]:
    """The section without its markers."""
    lines = ["## Quality on a real model, size by size", "", f"    {command(results, GROUP)}", ""]
    lines += [_ABOUT, "", _FILES + (f" {_PUBLISHED}" if published else ""), ""]
    if not tables:
        return [*lines, "Nothing is measured yet."]
    lines += [f"![File size against mean KLD of every file]({PLOT.as_posix()})", ""]
    for table in tables:
        first = table.rows[0].evaluation
        lines += [
            f"### {table.title}",
            "",
            f"The first {table.n_chunks} chunks of 512, {first.n_tokens:,} scored tokens (no more than {max(1, first.n_tokens // 1000)} lie beyond the 99.9 %), source PPL"
            f" {first.reference_ppl:.3f}; {first.evaluator}.",
            "",
            *overview(table, published),
            "",
            *([*lines_of, ""] if (lines_of := predictions(table)) and table.is_the_goals else []),
            *details(table, published),
            "",
            *([sentence, ""] if (sentence := shortfalls(table)) else []),
        ]
    return [*lines, *_time_lines(results, tables)]


def _time_lines(results: Results, tables: Sequence[TextTable]) -> list[str]:
    """How long the parts took, as far as that is known."""
    shared: Mapping[str, float] = results.facts.get("seconds", {})
    making: dict[str, list[float]] = {}
    for table in tables[:1]:
        for row in table.rows:
            making.setdefault(row.recipe, []).append(row.facts.seconds)
    keys = [text["key"] for text in results.facts.get("texts", {}).values()]
    cells = [cell.seconds for row in tables[0].rows for key in keys if (cell := results.cell(row.facts.sha256, key))]
    means = {recipe: sum(each) / len(each) for recipe, each in making.items()}
    parts = [f"{stage} {_duration(seconds)}" for stage, seconds in shared.items()]
    parts += [f"writing a file, {recipe}, {_duration(seconds)}" for recipe, seconds in means.items()]
    parts += [f"measuring, all {len(cells)} figures of these files, {_duration(sum(cells))}"]
    return [f"Time on {results.facts.get('cpu', 'this machine')}: {'; '.join(parts)}.{_effort_line(shared, means)}"]


def _effort_line(shared: Mapping[str, float], means: Mapping[str, float]) -> str:
    """What a whole run with ``--effort normal`` takes until its file is written, beside the time that was set for it."""
    if not {"estimate", "measure"} <= set(shared) or not {"plain", "feedback"} <= set(means):
        return ""
    whole = shared["estimate"] + shared["measure"] + means["feedback"]
    allowed = 3 * shared["estimate"] + shared["measure"] + 2 * means["plain"]
    return (
        f" `--effort normal` (estimate, measure, file) takes {_duration(whole)}; three passes forward and backward over as many tokens, the"
        f" costs and llama-quantize twice would take {_duration(allowed)}."
    )


def _duration(seconds: float) -> str:
    """``45 s``, ``3.5 min``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def write_quality(results: Results, published: Mapping[tuple[str, str], Published], page: Path) -> None:
    """Put the section into the page, and the plot beside it."""
    tables = text_tables(results)
    write_plot(tables, published, page.parent / PLOT)
    write_section(page, SECTION, quality_lines(results, tables, published))

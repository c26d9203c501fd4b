"""How far an allocation and its KLD depend on what was calibrated on: how much text, which seed, which domain.

Every variant is a run of its own, estimated and priced anew; its allocation and its measured file are held against those of the
reference, which has the product's defaults.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.quality.making import Planned, Setup, ours
from benchmarks.quality.report import command
from benchmarks.quality.results import Cell, FileFacts, Results
from benchmarks.quality.section import write_section
from benchmarks.quality.tables import difference, kld, markdown
from benchmarks.quality.texts import CALIBRATION_CHARS
from bitclass3_core.corpus import Document
from bitclass3_core.qtypes import qtype

SECTION = "stability"
GROUP = "stability texts"  # of the results: their chunks may be others than those of the quality tables
N_TOKENS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
REFERENCE_TOKENS = 16384
SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to calibrate."""

    n_tokens: int = REFERENCE_TOKENS
    seed: int = 0
    domain: str = "mixed"

    @property
    def name(self) -> str:
        """Name of its folder, and in the results."""
        return f"{self.domain}-{self.n_tokens}-seed{self.seed}"

    @property
    def label(self) -> str:
        """For the table: what differs from the reference."""
        changed = [f"{self.n_tokens:,} tokens"] if self.n_tokens != REFERENCE_TOKENS else []
        changed += [f"seed {self.seed}"] if self.seed else []
        changed += [f"{self.domain} text alone"] if self.domain != "mixed" else []
        return ", ".join(changed) or f"reference: {self.n_tokens:,} tokens, seed {self.seed}, {self.domain} text"

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings of its run."""
        return (f"estimate.options.n_tokens={self.n_tokens}", f"estimate.options.seed={self.seed}")


REFERENCE = Variant()
VARIANTS = (
    REFERENCE,
    *(Variant(n_tokens=n) for n in N_TOKENS if n != REFERENCE_TOKENS),
    *(Variant(seed=seed) for seed in SEEDS[1:]),
    *(Variant(domain=domain) for domain in CALIBRATION_CHARS),
)


@dataclass(frozen=True, slots=True)
class Change:
    """How far one allocation is from another, as shares of tensors and of the reference's bytes whose type differs."""

    tensors: float
    n_bytes: float


def change(qtypes: Mapping[str, str], reference: Mapping[str, str], n_params: Mapping[str, int]) -> Change:
    """What differs between two allocations of one model; ``n_params`` are the weights of each tensor."""
    sizes = {name: n_params[name] * qtype(q).bpw for name, q in reference.items()}
    differing = [name for name, q in reference.items() if qtypes.get(name) != q]
    return Change(len(differing) / len(sizes), sum(sizes[name] for name in differing) / sum(sizes.values()))


def name_of(variant: Variant, size: str) -> str:
    """The file's name in the results."""
    return f"stability/{variant.name}/{size}"


def planned_variant(setup: Setup, calibration: Sequence[Document], variant: Variant, size: str) -> Planned:
    """A variant's file, plainly rounded: this is about allocations."""
    varied = replace(setup, calibration=calibration)
    return ours(varied, f"stability/{variant.name}", size, "plain", name_of(variant, size), variant.settings)


def _rows(results: Results, text_key: str, size: str, n_params: Mapping[str, int]) -> Iterator[list[str]]:
    reference = _measured(results, REFERENCE, size, text_key)
    for variant in VARIANTS:
        found = _measured(results, variant, size, text_key)
        if found is None:
            continue
        facts, evaluation = found[0], found[1].evaluation
        away = ["", "", ""]
        if reference and variant != REFERENCE:
            moved = change(facts.qtypes, reference[0].qtypes, n_params)
            away = [f"{moved.tensors:.0%}".replace("%", " %"), f"{moved.n_bytes:.0%}".replace("%", " %")]
            away += [difference(evaluation, reference[1].evaluation)]
        predicted = f"{facts.predicted:.4f}" if facts.predicted is not None else ""
        yield [
            variant.label,
            *away[:2],
            predicted,
            kld(evaluation.mean_kld, evaluation.se_kld),
            away[2],
            f"{evaluation.p999_kld:.3g}",
        ]


def _measured(results: Results, variant: Variant, size: str, text_key: str) -> tuple[FileFacts, Cell] | None:
    facts = results.file(name_of(variant, size))
    cell = results.cell(facts.sha256, text_key) if facts else None
    return (facts, cell) if facts and cell else None


def stability_lines(results: Results, sizes: Sequence[str]) -> list[str]:
    """The section of docs/benchmarks.md without its markers: a table for each text and size that has figures."""
    lines = ["## Stability of the allocation", "", f"    {command(results, GROUP, 'stability')}", ""]
    lines += [
        f"smol768 as above, plain rounding, at the size of a stock mix. The reference has the defaults: {REFERENCE_TOKENS:,} calibration tokens, seed 0, text of all",
        "domains. Each row changes one thing, runs estimate, cost table and solver anew, and is measured on text that none was calibrated on. *Types changed* is the share",
        "of tensors, and of the reference's bytes, whose type is another; *against the reference* is the paired difference of mean KLD.",
        "",
    ]
    header = ["calibration", "types changed, tensors", "bytes", "predicted", "mean KLD", "against the reference", "99.9 %"]
    n_params = results.facts.get("n_params", {})
    n_before = len(lines)
    for text in results.facts.get(GROUP, {}).values():
        for size in sizes:
            if rows := list(_rows(results, text["key"], size, n_params)):
                lines += [f"### {size}'s size, {text['title']}, {text['n_chunks']} chunks of 512", "", *markdown(header, rows), ""]
    return lines if len(lines) > n_before else [*lines, "Nothing is measured yet."]


def write_stability(results: Results, sizes: Sequence[str], page: Path) -> None:
    """Put the section into the page."""
    write_section(page, SECTION, stability_lines(results, sizes))

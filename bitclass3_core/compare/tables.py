"""The tables of a comparison: as text, as Markdown, types as CSV."""

import csv
from collections import Counter
from dataclasses import dataclass
from io import StringIO

from bitclass3_core.compare.comparison import Comparison, on_front, type_differences
from bitclass3_core.evaluation import Evaluation


@dataclass(frozen=True)
class Table:
    """A table as text: the first column is a name."""

    title: str
    header: list[str]
    rows: list[list[str]]


def figures(evaluation: Evaluation | None) -> list[str]:
    """Mean KLD with its error, median and 99.9 % KLD, same top-1, PPL; dashes where nothing was measured."""
    if evaluation is None:
        return ["-"] * 5
    return [
        f"{evaluation.mean_kld:.4f} ± {evaluation.se_kld:.4f}",
        f"{evaluation.median_kld:.4f}",
        f"{evaluation.p999_kld:.3f}",
        f"{evaluation.same_top1:.1%}",
        f"{evaluation.ppl:.3f}",
    ]


def _main_table(comparison: Comparison) -> Table:
    header = ["file", "bytes", "bpw", "mean KLD", "median", "99.9 %", "same top-1", "PPL", "from first", "front"]
    rows = []
    for candidate, best in zip(comparison.candidates, on_front(comparison.candidates), strict=True):
        mean, se = comparison.paired.get(candidate.name, (None, None))
        paired = "" if mean is None else f"{mean:+.4f} ± {se:.4f}"
        sizes = [candidate.name, f"{candidate.file_bytes:,}", f"{candidate.bpw:.3f}"]
        rows.append([*sizes, *figures(candidate.evaluation), paired, "yes" if best else ""])
    return Table(f"{comparison.reference['name']}: measured against {comparison.reference['file']}", header, rows)


def _domain_table(comparison: Comparison) -> Table | None:
    domains = sorted({domain for c in comparison.candidates if c.evaluation for domain in c.evaluation.domains})
    if len(domains) < 2:
        return None
    rows = [
        [c.name, *(f"{c.evaluation.domains[d]:.4f}" if d in c.evaluation.domains else "-" for d in domains)]
        for c in comparison.candidates
        if c.evaluation
    ]
    return Table("mean KLD by domain", ["file", *domains], rows)


def _role(tensor: str) -> str:
    parts = tensor.removesuffix(".weight").split(".")
    return ".".join(parts[2:]) if parts[0] == "blk" else ".".join(parts)


def _type_table(comparison: Comparison) -> Table | None:
    """How many tensors of each role have which type, of the roles in which files differ."""
    roles = sorted({_role(name) for name in type_differences(comparison.candidates)})
    if not roles:
        return None
    rows = []
    for role in roles:
        cells = []
        for candidate in comparison.candidates:
            counts = Counter(q for name, q in candidate.allocation.qtypes.items() if _role(name) == role)
            cells.append(", ".join(f"{n} {q}" for q, n in counts.most_common()))
        rows.append([role, *cells])
    names = [candidate.name for candidate in comparison.candidates]
    n_all = len(comparison.candidates[0].allocation.qtypes)
    return Table(f"types of {len(type_differences(comparison.candidates))} of {n_all} tensors differ", ["role", *names], rows)


def tables(comparison: Comparison) -> list[Table]:
    """Figures, figures by domain, types by role: those that there is something to say in."""
    found = (_main_table(comparison), _domain_table(comparison), _type_table(comparison))
    return [table for table in found if table is not None]


def notes(comparison: Comparison) -> list[str]:
    """What the figures are: lines to print below the tables."""
    lines = []
    measured = next((c.evaluation for c in comparison.candidates if c.evaluation), None)
    if measured is not None:
        lines.append(
            f"source PPL {measured.reference_ppl:.3f}; {measured.n_tokens:,} tokens scored by {measured.evaluator}; KLD in nats per token; "
            "from first: difference of mean KLD on the same tokens; front: no other file is both no larger and no worse"
        )
    if len(comparison.candidates) > 1 and not type_differences(comparison.candidates):
        lines.append("all tensors have the same type in every file")
    return lines


def markdown(comparison: Comparison) -> str:
    """The tables as Markdown, with the command that made them."""
    parts = []
    for table in tables(comparison):
        lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows]
        parts += [
            f"## {table.title}",
            "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines),
        ]
    command = f"```sh\n{comparison.command}\n```"
    return "\n\n".join([*parts, *notes(comparison), command]) + "\n"


def types_csv(comparison: Comparison) -> str:
    """Every tensor with its type in each file, and whether they differ."""
    differing = type_differences(comparison.candidates)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tensor", *(candidate.name for candidate in comparison.candidates), "differs"])
    for name in sorted({name for candidate in comparison.candidates for name in candidate.allocation.qtypes}):
        types = [candidate.allocation.qtypes.get(name, "") for candidate in comparison.candidates]
        writer.writerow([name, *types, "yes" if name in differing else "no"])
    return text.getvalue()

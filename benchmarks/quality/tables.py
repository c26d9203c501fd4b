"""Results as Markdown: one table over all sizes, and one for each text; what was not measured yet is left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.quality.goals import N_CHUNKS, TEXT, against_goal
from benchmarks.quality.making import OURS, RECIPES, SIZES
from benchmarks.quality.peers import PEER, STOCK, TRIAL, TRIAL_FEEDBACK, Published
from benchmarks.quality.results import FileFacts, Results
from benchmarks.quality.texts import TEXT_NAMES
from bitclass3_core.evaluation import Evaluation, paired_difference

LABELS: Mapping[str, str] = {
    "stock": "stock mix",
    "peer": "PR #15550",
    "plain": "ours, plain rounding",
    "feedback": "ours, error feedback",
    "tuned": "ours, scales tuned",
}
_PUBLISHED_AS = {"stock": STOCK, "peer": PEER, "plain": TRIAL, "feedback": TRIAL_FEEDBACK}
_TRIALS = {TRIAL: "trial, plain rounding", TRIAL_FEEDBACK: "trial, block feedback"}


@dataclass(frozen=True, slots=True)
class Row:
    """One file on one text."""

    size: str
    recipe: str
    facts: FileFacts
    evaluation: Evaluation


# What ours must be better in: title, form of a value, and a figure that is smaller where the file is better.
_JUDGED: tuple[tuple[str, str, Callable[[Row], float]], ...] = (
    ("mean KLD", "{:.4f}", lambda row: row.evaluation.mean_kld),
    ("99.9 %", "{:.3g}", lambda row: row.evaluation.p999_kld),
    ("same top-1", "{:.1%}", lambda row: -row.evaluation.same_top1),
)


@dataclass(frozen=True, slots=True)
class TextTable:
    """All rows of one text."""

    name: str
    title: str
    n_chunks: int
    rows: Sequence[Row]

    @property
    def is_the_goals(self) -> bool:
        """Whether goals and published figures are of this text and so many chunks."""
        return (self.name, self.n_chunks) == (TEXT, N_CHUNKS)

    def row(self, size: str, recipe: str) -> Row | None:
        """The row of that file, if it was measured."""
        return next((row for row in self.rows if (row.size, row.recipe) == (size, recipe)), None)


def text_tables(results: Results, sizes: Sequence[str] = SIZES) -> list[TextTable]:
    """What was measured of the files last made, text by text; texts without any figure are left out."""
    tables = []
    texts = results.facts.get("texts", {})
    for name, text in sorted(texts.items(), key=lambda item: TEXT_NAMES.index(item[0])):
        rows = []
        for size in sizes:
            for recipe in RECIPES:
                facts = results.file(f"{size}/{recipe}")
                cell = results.cell(facts.sha256, text["key"]) if facts else None
                if facts and cell:
                    rows.append(Row(size, recipe, facts, cell.evaluation))
        if rows:
            tables.append(TextTable(name, text["title"], text["n_chunks"], rows))
    return tables


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def kld(mean: float, se: float) -> str:
    """``0.0620 ± 0.0011``: as many decimals as tell two files apart."""
    decimals = 3 if mean >= 0.2 else 4
    return f"{mean:.{decimals}f} ± {se:.{decimals}f}"


def difference(a: Evaluation, b: Evaluation) -> str:
    """Mean KLD of ``a`` less that of ``b`` on the same tokens, with its error; empty where they cannot be paired."""
    pair = paired_difference(a, b)
    return f"{pair[0]:+.4f} ± {pair[1]:.4f}" if pair else ""


def overview(table: TextTable, published: Mapping[tuple[str, str], Published]) -> list[str]:
    """Mean KLD by size and recipe; in parentheses what the trial published."""
    recipes = [recipe for recipe in RECIPES if any(row.recipe == recipe for row in table.rows)]
    header = ["size of", *(LABELS[recipe] for recipe in recipes), *(["goals: plain; best"] if table.is_the_goals else [])]
    rows = []
    for size in SIZES:
        found = [table.row(size, recipe) for recipe in recipes]
        if not any(found):
            continue
        cells = [_overview_cell(row, published if table.is_the_goals else {}) if row else "" for row in found]
        goals = [_goals(table, size)] if table.is_the_goals else []
        rows.append([size, *cells, *goals])
    return markdown(header, rows)


def _overview_cell(row: Row, published: Mapping[tuple[str, str], Published]) -> str:
    known = published.get((row.size, _PUBLISHED_AS.get(row.recipe, "")))
    tail = f" ({known.mean_kld:.3g})" if known else ""
    figure = kld(row.evaluation.mean_kld, row.evaluation.se_kld) + tail
    return f"**{figure}**" if row.recipe in OURS else figure


def _goals(table: TextTable, size: str) -> str:
    goals = [against_goal(row.recipe, size, row.evaluation.mean_kld) for recipe in OURS if (row := table.row(size, recipe))]
    return "; ".join(goal for goal in goals if goal)


def predictions(table: TextTable) -> list[str]:
    """What the costs of plain rounding predicted, and what was measured; empty where no file of ours has a prediction."""
    pairs = [(row, row.facts.predicted) for row in table.rows if row.recipe == "plain" and row.facts.predicted]
    if not pairs:
        return []
    ratios = [row.evaluation.mean_kld / predicted for row, predicted in pairs]
    rows = [
        [row.size, f"{predicted:.4f}", kld(row.evaluation.mean_kld, row.evaluation.se_kld), f"{ratio:.2f}"]
        for (row, predicted), ratio in zip(pairs, ratios, strict=True)
    ]
    fitted = float(np.exp(np.log(ratios).mean()))
    about = "Sums of costs, before anything was measured, and the divergence of the file, plain rounding:"
    table_of_all = markdown(["size of", "predicted", "measured", "measured / predicted"], rows)
    return [about, "", *table_of_all, "", f"The fitted ratio (geometric mean) is {fitted:.2f}."]


def details(table: TextTable, published: Mapping[tuple[str, str], Published]) -> list[str]:
    """Every figure of every file on one text, the trial's among them where they are of the same text."""
    header = [
        "size of",
        "file",
        "bytes",
        "bpw",
        "mean KLD",
        "against stock",
        "against plain",
        "median",
        "99.9 %",
        "same top-1",
        "PPL",
    ]
    rows: list[list[str]] = []
    for size in SIZES:
        rows += [_details_row(table, row) for row in table.rows if row.size == size]
        if table.is_the_goals and any(row.size == size for row in table.rows):
            rows += [
                _trial_row(size, label, published[size, method]) for method, label in _TRIALS.items() if (size, method) in published
            ]
    return markdown(header, rows)


def shortfalls(table: TextTable) -> str:
    """A sentence that names every figure in which a file of ours is no better than each of the others of its size."""
    named, compared = [], set()
    for row in (row for row in table.rows if row.recipe in OURS):
        others = [other for name in RECIPES if name not in OURS and (other := table.row(row.size, name))]
        compared |= {row.size} if others else set()
        for title, form, figure in _JUDGED:
            best = min(others, key=figure, default=row)
            if figure(best) <= figure(row) and best is not row:
                values = [form.format(abs(figure(one))).replace("%", " %") for one in (row, best)]
                named.append(f"{row.size}, {LABELS[row.recipe]}: {title} {values[0]} ({LABELS[best.recipe]}: {values[1]})")
    if not compared:
        return ""
    if not named:
        sizes = ", ".join(size for size in SIZES if size in compared)
        return f"Every file of ours is better than each of the others in mean KLD, 99.9 % KLD and same top-1, at {sizes}."
    return f"Where ours is not better than each of the others: {'; '.join(named)}."


def _details_row(table: TextTable, row: Row) -> list[str]:
    e = row.evaluation
    stock, plain = table.row(row.size, "stock"), table.row(row.size, "plain")
    pairs = [
        difference(e, stock.evaluation) if stock and row.recipe != "stock" else "",
        difference(e, plain.evaluation) if plain and row.recipe in OURS and row is not plain else "",
    ]
    figures = [f"{e.median_kld:.4f}", f"{e.p999_kld:.3g}", f"{e.same_top1:.1%}".replace("%", " %"), f"{e.ppl:.2f}"]
    sizes = [row.size, LABELS[row.recipe], f"{row.facts.n_bytes:,}", f"{row.facts.bpw:.3f}"]
    return [*sizes, kld(e.mean_kld, e.se_kld), *pairs, *figures]


def _trial_row(size: str, label: str, known: Published) -> list[str]:
    top = f"{known.same_top1:.1%}".replace("%", " %")
    figures = [f"{known.median_kld:.4f}", f"{known.p999_kld:.3g}", top, f"{known.ppl:.2f}"]
    return [size, f"*{label}*", f"{known.n_bytes:,}", "", kld(known.mean_kld, known.se_kld), "", "", *figures]

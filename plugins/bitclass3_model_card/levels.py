"""A ladder in the card: the use of each file, the recommended one and why, and how every file was chosen."""

from bitclass3_core.release.record import PPL_WITHIN, ppl_change
from bitclass3_core.results import Candidate, Contender, Run, Selection
from bitclass3_model_card.facts import file_name
from bitclass3_model_card.text import bullets, code, megabytes, number, plain, plus_minus, table

# (largest share by which PPL is above the source's, use of such a file); files above all of them are for small memories
_USES = ((0.001, "Near-lossless reference"), (0.005, "High quality"), (0.02, "Balanced quality and size"))
_SMALL = "Where memory decides"

_SOLVED = {"ours": "the solver's answer", "fitted": "the solver's answer to costs fitted on measured mixes"}


def use_case(run: Run, candidate: Candidate) -> str:
    """The use of a file in a few words, from its measured PPL and its place on the ladder."""
    evaluation = candidate.evaluation
    if evaluation is None:
        return "-"
    made = [level.candidate for level in run.levels if level.candidate]
    words = next((use for share, use in _USES if ppl_change(evaluation) <= share), _SMALL)
    if len(made) > 1 and candidate.file_bytes == min(other.file_bytes for other in made):
        words = "Maximum compression"
    return f"{words}, recommended" if candidate is run.ours and len(made) > 1 else words


def legend() -> str:
    """A sentence that explains the words in the column Use Case."""
    bounds = ", ".join(f"{use.lower()}: PPL at most {100 * share:g} % above the source's" for share, use in _USES)
    return f"Use case by measured PPL ({bounds}); the smallest file is called maximum compression."


def failures(run: Run) -> str:
    """Levels that could not be made, and why; empty if all were."""
    failed = [f"{plain(level.name)} could not be made: {plain(level.error)}." for level in run.levels if level.error]
    return bullets(failed) if failed else ""


def recommendation(run: Run) -> str:
    """The recommended level, and the rule by which it was found; empty without a ladder of measured files."""
    ours, evaluation = run.ours, run.ours.evaluation
    if len([level for level in run.levels if level.candidate]) < 2 or evaluation is None:
        return ""
    change = 100 * ppl_change(evaluation)
    why = (
        f"the smallest file whose PPL is within {100 * PPL_WITHIN:g} % of the source's ({change:+.2f} %)"
        if ppl_change(evaluation) <= PPL_WITHIN
        else f"the lowest mean KLD; no file's PPL is within {100 * PPL_WITHIN:g} % of the source's ({change:+.2f} % here)"
    )
    return f"Recommended: {code(file_name(ours))}, {why}; KL-mean {number(evaluation.mean_kld, 3)} at {megabytes(ours.file_bytes)}."


def selections(run: Run) -> str:
    """For every file that was chosen among candidates: the winner and the differences; empty if there is no such file."""
    lines = [_chosen(name, run.selections[name]) for name in _in_order(run) if name in run.selections]
    if not lines:
        return ""
    n_tokens = next(iter(run.selections.values())).n_tokens
    head = (
        f"Each file was chosen by measured mean KLD among candidates no larger than asked, over {n_tokens:,} tokens of text that neither"
        " calibrated it nor is scored in the table (± is one standard error; differences are paired on the same tokens):"
    )
    return f"{head}\n\n{bullets(lines)}"


def _in_order(run: Run) -> list[str]:
    levels = [level.candidate.name for level in run.levels if level.candidate]
    return levels or [run.ours.name]


def _chosen(name: str, selection: Selection) -> str:
    winner = selection.winner
    if selection.stock_won:
        what = f"llama.cpp's own {plain(winner.how)} mix was the best and **is what this file holds**"
    elif winner.how in _SOLVED:
        what = f"{_SOLVED[winner.how]} was the best"
    else:
        what = f"the variation {code(winner.how)} was the best"
    others = "; ".join(_other(other, winner) for other in selection.contenders[1:])
    told = f". Others against it: {others}." if others else "."
    return f"{code(name)}: {what}, {plus_minus(winner.mean_kld, winner.se_kld)}{told}{_multipliers(selection)}"


def _multipliers(selection: Selection) -> str:
    if not selection.multipliers:
        return ""
    each = ", ".join(f"{code(role)} {number(factor, 3)}" for role, factor in selection.multipliers.items())
    return f" Costs of each role, fitted on measured mixes of this size, times: {each}."


def _other(other: Contender, winner: Contender) -> str:
    who = _SOLVED.get(other.how, plain(other.how))
    if other.difference is None:
        return f"{who} {other.mean_kld - winner.mean_kld:+.4f} (not paired)"
    mean, se = other.difference
    sure = "" if abs(mean) > 2 * se else ", within twice the error"
    return f"{who} {'+' if mean >= 0 else ''}{plus_minus(mean, se)}{sure}"


def beside_stock(run: Run) -> str:
    """A table of every level beside the stock mix that was measured with it; empty if there is none."""
    stock = {candidate.name: candidate for candidate in run.candidates if candidate.kind == "stock"}
    rows = [
        _beside(level.candidate, stock[level.baseline], level.difference)
        for level in run.levels
        if level.candidate and level.baseline in stock
    ]
    if not rows:
        return ""
    header = ("File", "Bytes", "KL-mean ↓", "Stock mix", "Bytes", "KL-mean ↓", "Difference, paired")
    head = "Every file beside the smallest stock mix of llama.cpp that is no smaller (same imatrix, same text):"
    return f"{head}\n\n{table(header, rows)}"


def _beside(ours: Candidate, mix: Candidate, difference: tuple[float, float] | None) -> list[str]:
    klds = [number(c.evaluation.mean_kld) if c.evaluation else "-" for c in (ours, mix)]
    paired = plus_minus(*difference) if difference else "-"
    return [code(file_name(ours)), f"{ours.file_bytes:,}", klds[0], code(file_name(mix)), f"{mix.file_bytes:,}", klds[1], paired]

"""Compares our file with the stock mix of the same size: only measured figures, with their errors."""

import math

from bitclass3_core.evaluation import Evaluation
from bitclass3_core.results import Candidate, Run
from bitclass3_model_card.facts import file_name, stock_at_same_size
from bitclass3_model_card.levels import beside_stock
from bitclass3_model_card.text import code, number, plus_minus


def _bytes(ours: Candidate, stock: Candidate) -> str:
    less, mix = stock.file_bytes - ours.file_bytes, f"llama.cpp's stock mix {code(file_name(stock))}"
    if less == 0:
        return f"Ours and {mix} have the same size."
    word = "smaller" if less > 0 else "larger"
    share = 100 * abs(less) / stock.file_bytes
    return f"Ours is {abs(less):,} bytes {word} ({number(share, 2) if share >= 0.01 else 'under 0.01'} %) than {mix}."


def _difference(run: Run, stock: Candidate, ours: Evaluation, other: Evaluation) -> tuple[float, float, str]:
    """(mean KLD of ours minus stock's, its standard error, whether it is paired)."""
    if stock.name in run.differences:
        mean, se = run.differences[stock.name]
        return mean, se, "paired on the same tokens"
    return ours.mean_kld - other.mean_kld, math.hypot(ours.se_kld, other.se_kld), "not paired"


def _verdict(mean: float, se: float, other: Evaluation) -> str:
    share = f" by {100 * abs(mean) / other.mean_kld:.1f} %" if other.mean_kld > 0 else ""
    if not math.isfinite(se):
        return "the error of the difference is unknown, so this run does not tell the two apart"
    if abs(mean) <= 2 * se:
        return "that is within twice its standard error, so this run does not tell the two apart"
    word = "lower" if mean < 0 else "higher"
    return f"the mean KLD of ours is {word}{share}, by more than twice the standard error"


def comparison_section(run: Run) -> str:
    """A paragraph on ours against the stock mix nearest in size."""
    heading, stock, ours = "## How It Compares\n\n", stock_at_same_size(run), run.ours
    if levels := beside_stock(run):
        return heading + levels
    if stock is None:
        return heading + "No stock mix of llama.cpp was part of this run."
    against = _bytes(ours, stock)
    if ours.evaluation is None or stock.evaluation is None:
        return f"{heading}{against} The divergence of the two was not measured, so nothing is said of their quality."
    mean, se, how = _difference(run, stock, ours.evaluation, stock.evaluation)
    klds = f"Mean KLD is {number(ours.evaluation.mean_kld)} (ours) against {number(stock.evaluation.mean_kld)} (stock)"
    difference = f"the difference, {how}, is {plus_minus(mean, se)} nats per token"
    return f"{heading}{against} {klds}; {difference}: {_verdict(mean, se, stock.evaluation)}."

"""Writes numbers, names and Markdown for the card."""

import math
from collections.abc import Iterable, Sequence

from bitclass3_core.results import Candidate

NOT_MEASURED = "-"


def number(value: float, digits: int = 4) -> str:
    """``value`` with that many significant digits; with an exponent only if it would have many zeros."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def plus_minus(value: float, se: float) -> str:
    """``0.01234 ± 0.00056``: the standard error with two significant digits, the value with as many decimals."""
    if not math.isfinite(se) or se <= 0:
        return number(value)
    decimals = max(0, 1 - math.floor(math.log10(se)))
    if decimals > 8:
        return f"{value:.3e} ± {se:.1e}"
    return f"{value:,.{decimals}f} ± {se:.{decimals}f}"


def percent(share: float, se: float = math.nan) -> str:
    """``97.12 % ± 0.10``: a share as a percentage."""
    value = plus_minus(100 * share, 100 * se) if math.isfinite(se) and se > 0 else f"{100 * share:.2f}"
    first, *rest = value.split(" ± ")
    return f"{first} %" + (f" ± {rest[0]}" if rest else "")


def megabytes(n_bytes: int) -> str:
    """``14.91 MB`` or ``5.41 GB``: decimal units, as model hubs show them."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.2f} MB"


def n_weights(n_params: int) -> str:
    """``7.4 M``: a count of weights with its unit."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n_params >= limit:
            return f"{number(n_params / limit, 3)} {unit}"
    return str(n_params)


def code(text: str) -> str:
    """``text`` as inline code that also survives in a table's cell."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def tensor(name: str) -> str:
    """The tensor's name as code, without the ending that all have."""
    return code(name.removesuffix(".weight"))


def file_name(candidate: Candidate) -> str:
    """The name of the candidate's file, or the candidate's name if no file was written."""
    return candidate.path.name if candidate.path else candidate.name


def plain(text: str) -> str:
    """``text`` on one line, with the special characters of Markdown and HTML escaped."""
    line = " ".join(text.split())
    for character in "\\`*[]<>|":
        line = line.replace(character, "&lt;" if character == "<" else f"\\{character}")
    return line


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def counted(n: int, noun: str) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" and {items[-1]}"

"""A section of a Markdown page between two markers, written anew without touching the rest."""

import re
from collections.abc import Sequence
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.files import write_text


def markers(name: str) -> tuple[str, str]:
    """The lines before and after a section."""
    return f"<!-- {name}: written by python -m benchmarks.quality -->", f"<!-- {name}: end -->"


def with_section(page: str, name: str, lines: Sequence[str], where: str = "the page") -> str:
    """The page with the section's text between its markers; both are put at the end of a page that has none.

    Raises Bitclass3Error if a marker is missing or stands there twice.
    """
    begin, end = markers(name)
    section = "\n".join([begin, "", *lines, "", end])
    counts = page.count(begin), page.count(end)
    if counts == (0, 0):
        return f"{page.rstrip()}\n\n{section}\n".lstrip()
    if counts != (1, 1) or page.index(begin) > page.index(end):
        raise Bitclass3Error(
            f"{where} has {counts[0]} beginnings and {counts[1]} ends of the section {name!r}; leave one pair, or none"
        )
    return re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _: section, page, flags=re.DOTALL)


def write_section(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put a section into a page, which may not be there yet."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    write_text(page, with_section(text, name, lines, str(page)))

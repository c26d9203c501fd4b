"""Code blocks of the documentation, and what the comment before each says is to be done with it: ``<!-- run -->``, ``<!-- file: x -->``."""

import re
from dataclasses import dataclass
from pathlib import Path

from command import ROOT

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>run(?:: \w+)?|file: \S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INDENTED = re.compile(r"^    (?:\$ )?(bitclass3 .*)$", re.MULTILINE)
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "examples").rglob("README.md")])


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its mark (``run``, ``run: slow``, ``file: NAME``, or nothing) and its text."""

    language: str
    mark: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["mark"] or "", match["text"]) for match in found]


def commands(page: Path) -> list[str]:
    """Every line of a page that calls bitclass3, in fenced and in indented blocks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = [
        line.strip() for block in blocks(page) if block.language == "sh" for line in block.text.replace("\\\n", " ").splitlines()
    ]
    return [line for line in (*fenced, *(match[1] for match in _INDENTED.finditer(text))) if line.startswith("bitclass3 ")]

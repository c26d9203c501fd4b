"""The text that every CPython carries, as documents, split before anything is trained on it.

Three kinds of documents: the documentation topics of ``pydoc_data`` and the docstrings of each module of the standard library
(domain ``docs``), and each module's source (domain ``code``). A document's part follows from a hash of its *key* (topic or module
name), so a module's docstrings and its source always land in the same part, whatever the version of Python.

usage: python corpus.py OUT_DIR      writes OUT_DIR/{calibration,evaluation}.jsonl, the held-out parts, capped in size
"""

import ast
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Test data, generated tables and copies of other projects teach a small model nothing that its held-out text asks for.
EXCLUDED = {
    "test",
    "tests",
    "encodings",
    "pydoc_data",
    "site-packages",
    "ensurepip",
    "lib2to3",
    "idlelib",
    "distutils",
    "__pycache__",
}
HELD_OUT = {"calibration": range(5), "evaluation": range(5, 10)}  # of 100 hash buckets; the rest is for training
MAX_CHARS = {"calibration": 400_000, "evaluation": 500_000}
MAX_DOCUMENT_CHARS = 40_000  # one long module must not be most of a held-out part


@dataclass(frozen=True, slots=True)
class Document:
    """One text with the key that decides its part."""

    key: str
    domain: str
    text: str


def part_of(key: str) -> str:
    """``train``, ``calibration`` or ``evaluation``, from a hash of the key alone."""
    bucket = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return next((part for part, buckets in HELD_OUT.items() if bucket in buckets), "train")


def topics() -> Iterator[Document]:
    """The documentation topics behind ``help("if")`` and the like."""
    from pydoc_data.topics import topics as texts

    for name, text in sorted(texts.items()):
        yield Document(f"topic:{name}", "docs", text)


def docstrings(source: str) -> str:
    """All docstrings of a module, in order, each under the name that it documents."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > 80:
                found.append(f"{getattr(node, 'name', 'module')}\n\n{text}\n")
    return "\n".join(found)


def modules() -> Iterator[Document]:
    """Docstrings and source of each pure Python module of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if EXCLUDED & set(relative.parts) or relative.name.startswith("_sysconfigdata"):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            prose = docstrings(source)
        except (UnicodeDecodeError, SyntaxError):
            continue
        key = ".".join(relative.with_suffix("").parts)
        if len(prose) > 400:
            yield Document(key, "docs", prose)
        if len(source) > 400:
            yield Document(key, "code", source)


def documents(part: str) -> list[Document]:
    """The documents of one part, in a fixed order that mixes the domains."""
    chosen = [doc for doc in (*topics(), *modules()) if part_of(doc.key) == part]
    return sorted(chosen, key=lambda doc: hashlib.sha256(f"{doc.key} {doc.domain}".encode()).hexdigest())


def write_held_out(out: Path) -> None:
    """Write the held-out parts as JSON lines (``key``, ``domain``, ``text``) up to their cap."""
    out.mkdir(parents=True, exist_ok=True)
    for part, cap in MAX_CHARS.items():
        n_chars, lines = 0, []
        for doc in documents(part):
            text = doc.text[:MAX_DOCUMENT_CHARS]
            if n_chars + len(text) > cap:
                continue
            n_chars += len(text)
            lines.append(json.dumps({"key": doc.key, "domain": doc.domain, "text": text}, ensure_ascii=False))
        (out / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{part}: {len(lines)} documents, {n_chars:,} characters")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_held_out(Path(sys.argv[1]))

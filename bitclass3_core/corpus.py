"""Texts as documents, split by document into parts that share none."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.errors import ModelFileError

EVALUATION_SHARE = 0.5  # of the documents, by hash, where only one list of files is given
MIN_DOCUMENT_CHARS = 4000  # plain text is cut at blank lines into documents of at least this many characters


@dataclass(frozen=True, slots=True)
class Document:
    """One text, the domain that it stands for (``code``, ``wiki``) and its hash."""

    text: str
    domain: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents for calibration and for evaluation, no document in both, each part in an order that mixes the domains."""

    calibration: tuple[Document, ...]
    evaluation: tuple[Document, ...]
    files: tuple[str, ...] = ()

    @staticmethod
    def fingerprint(documents: Iterable[Document]) -> str:
        """Hash over the documents' hashes, in order."""
        return hashlib.sha256(" ".join(doc.sha256 for doc in documents).encode()).hexdigest()


def document(text: str, domain: str) -> Document:
    """A document with its hash computed."""
    return Document(text, domain, hashlib.sha256(text.encode()).hexdigest())


def _from_json_lines(path: Path, text: str) -> list[Document]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            documents.append(document(str(entry["text"]), str(entry.get("domain", path.stem))))
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"corpus file {path} line {number} is no JSON object with a 'text' key; write one document a line, or use a .txt file"
            raise ModelFileError(message) from None
    return documents


def _from_plain_text(path: Path, text: str) -> list[Document]:
    """Cut at blank lines, so that one big file can still be split by document."""
    documents, begin = [], 0
    while begin < len(text):
        cut = text.find("\n\n", begin + MIN_DOCUMENT_CHARS)
        end = len(text) if cut < 0 or len(text) - cut < MIN_DOCUMENT_CHARS else cut + 2
        if text[begin:end].strip():
            documents.append(document(text[begin:end], path.stem))
        begin = end
    return documents


def read_documents(path: Path) -> list[Document]:
    """The documents of one file: ``.jsonl`` has one a line (keys ``text`` and maybe ``domain``), anything else is plain text.

    Raises ModelFileError for a file that is missing, empty or no UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelFileError(f"corpus file {path} does not exist; check [corpus] or --corpus") from None
    except UnicodeDecodeError as error:
        raise ModelFileError(f"corpus file {path} is no UTF-8 text (byte {error.start}); convert it first") from None
    except OSError as error:
        raise ModelFileError(f"corpus file {path} cannot be read: {error.strerror}") from None
    documents = _from_json_lines(path, text) if path.suffix in {".jsonl", ".ndjson"} else _from_plain_text(path, text)
    if not documents:
        raise ModelFileError(f"corpus file {path} is empty; give a file with text")
    return documents


def _mixed(documents: Iterable[Document]) -> tuple[Document, ...]:
    """In the order of their hashes: domains mixed, the same on every machine."""
    unique = {doc.sha256: doc for doc in documents}
    return tuple(unique[key] for key in sorted(unique))


def load_corpus(calibration: Sequence[Path], evaluation: Sequence[Path] = ()) -> Corpus:
    """The corpus of these files; without ``evaluation`` the calibration files' documents are split in two by their hashes.

    Without ``calibration`` there is none: an imatrix file may take its place.

    Raises ModelFileError for unusable files and for a document that stands in both parts.
    """
    if not calibration and not evaluation:
        raise ModelFileError("no calibration text; name one with [corpus] calibration or --corpus FILE")
    documents = _mixed(doc for path in calibration for doc in read_documents(path))
    files = tuple(str(path) for path in (*calibration, *evaluation))
    if evaluation:
        held_out = _mixed(doc for path in evaluation for doc in read_documents(path))
        shared = {doc.sha256 for doc in documents} & {doc.sha256 for doc in held_out}
        if shared:
            message = f"{len(shared)} documents are in the calibration and in the evaluation text; a model must not be tested on the text it was calibrated on"
            raise ModelFileError(message)
        return Corpus(documents, held_out, files)
    if len(documents) < 2:
        raise ModelFileError(
            f"the corpus has only {len(documents)} document: too few to split; give evaluation text too (--eval-corpus FILE)"
        )
    limit = max(1, min(len(documents) - 1, round(len(documents) * (1 - EVALUATION_SHARE))))
    return Corpus(documents[:limit], documents[limit:], files)

"""A file on texts, by llama-perplexity; the source's log-probabilities of a text are made once and used for every file."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bitclass3_llama_perplexity as llama_perplexity
from bitclass3_llama_perplexity.program import find

from benchmarks.quality.results import Cell, Results, cell_key
from benchmarks.quality.texts import EvaluationText
from bitclass3_core.corpus import Corpus, Document
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.places import content_hash

N_CTX = 512


class Meter:
    """llama-perplexity over files that all lie in one folder: the base logits are kept beside them until ``close``."""

    def __init__(
        self, model: GgufModel, texts: Sequence[EvaluationText], results: Results, progress: Progress, group: str = "texts"
    ) -> None:
        self._model, self._results, self._progress = model, results, progress
        engine = _engine()
        self.texts = {cell_key(model.fingerprint, text.sha256, text.n_chunks, N_CTX, engine): text for text in texts}
        for key, text in self.texts.items():
            results.put_text(group, text.name, text.title, text.n_chunks, key)
        self._folders: set[Path] = set()

    def missing(self, sha256: str) -> list[str]:
        """Keys of the texts on which a file's content was not measured yet."""
        return [key for key in self.texts if self._results.cell(sha256, key) is None]

    def measure(self, path: Path, sha256: str) -> None:
        """Measure a file on all texts where that was not done; each figure is kept as soon as it is there."""
        for key in self.missing(sha256):
            begin = time.monotonic()
            evaluation = self._evaluate(path, self.texts[key])
            self._results.put_cell(sha256, key, Cell(evaluation, round(time.monotonic() - begin, 1)))

    def _evaluate(self, path: Path, text: EvaluationText) -> Any:
        self._folders.add(path.parent / "evaluation")
        corpus = Corpus((), (Document(text.text, text.name, text.sha256),))
        values = {"n_ctx": N_CTX, "n_chunks": text.n_chunks, "keep_base": True}
        options = llama_perplexity.Options.model_validate(values)
        return llama_perplexity.bitclass3_evaluate(self._model, [GgufModel(path)], corpus, options, self._progress)[0]

    def close(self) -> None:
        """Delete the base logits: gigabytes."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _engine() -> Mapping[str, Any]:
    """What the figures depend on besides the files and the text."""
    program = find(None)
    return {"program": content_hash(program.path), "version": program.version}

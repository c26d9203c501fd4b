"""Benchmark Details: machine, versions, text and command, so that the figures can be made again."""

import os
import platform
from pathlib import Path

from bitclass3_core.corpus import Corpus, Document
from bitclass3_core.files import sha256_file
from bitclass3_core.results import Run
from bitclass3_model_card.text import bullets, code, counted, number, plain


def _memory() -> str:
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system has them
        return ""
    return f", {n_bytes / 2**30:.0f} GiB RAM" if n_bytes > 0 else ""


def _processor() -> str:
    """The processor's name; empty if the system does not tell it. Linux does on most machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f" ({plain(name)})" if name else ""


def _machine() -> str:
    system = f"{platform.system()} {platform.machine()}".strip()
    return f"Machine: {plain(system)}, {counted(os.cpu_count() or 1, 'CPU')}{_processor()}{_memory()}, Python {platform.python_version()}."


def _text(what: str, documents: tuple[Document, ...], tokens: str) -> str:
    domains = sorted({document.domain for document in documents})
    about = f" ({', '.join(plain(domain) for domain in domains)})" if domains else ""
    return f"{what} text: {counted(len(documents), 'document')}{about}, {tokens}, sha256 {code(Corpus.fingerprint(documents))}."


def _corpus_file(name: str) -> str:
    """The file's name without its folders, and the hash of its present content, if it still exists."""
    digest = f" (sha256 {code(sha256_file(Path(name)))})" if Path(name).is_file() else ""
    return code(name.replace("\\", "/").rsplit("/", 1)[-1]) + digest


def _corpora(run: Run) -> list[str]:
    # two folders may have files with one name, so doubles stay
    names = [_corpus_file(name) for name in run.corpus.files]
    evaluation = next((candidate.evaluation for candidate in run.candidates if candidate.evaluation), None)
    used = f"{run.sensitivity.n_tokens:,} tokens used in windows of {run.sensitivity.n_ctx:,}"
    scored = f"{evaluation.n_tokens:,} tokens scored in {counted(evaluation.n_chunks, 'chunk')}" if evaluation else "not used"
    return [
        *([f"Corpus files: {', '.join(names)}."] if names else []),
        _text("Calibration", run.corpus.calibration, used),
        *([_text("Imatrix", run.corpus.imatrix, "the weights of columns are from it")] if run.corpus.imatrix else []),
        *([_text("Selection", run.corpus.selection, _selected(run))] if run.corpus.selection else []),
        _text("Evaluation", run.corpus.evaluation, scored),
    ]


def _selected(run: Run) -> str:
    n_tokens = {selection.n_tokens for selection in run.selections.values()}
    return f"{max(n_tokens):,} tokens scored to choose the files by" if n_tokens else "not used"


def _evaluators(run: Run) -> list[str]:
    names = sorted({candidate.evaluation.evaluator for candidate in run.candidates if candidate.evaluation} - {""})
    return [f"KL divergence and PPL: measured against the source by {', '.join(plain(name) for name in names)}."] if names else []


def _unusable(run: Run) -> list[str]:
    """The types of tensors whose first type could not be written."""
    return [
        f"{code(tensor)} cannot be {plain(failed)} ({plain(reason)}): ours has it in {plain(run.ours.allocation.qtypes.get(tensor, 'its source type'))}."
        for (tensor, failed), reason in run.unusable.items()
    ]


def benchmark_section(run: Run) -> str:
    """The section: all that the figures were made with."""
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(run.versions.items()))
    seconds = ", ".join(f"{plain(stage)} {number(value, 3)} s" for stage, value in run.timings.items())
    lines = [
        _machine(),
        f"Source: {code(run.model.path.name)}, fingerprint {code(run.model.fingerprint)}.",
        *_corpora(run),
        *_evaluators(run),
        *([f"Versions: {versions}."] if versions else []),
        *([f"Time: {seconds}."] if seconds else []),
        *_unusable(run),
        *(f"Warning: {plain(warning)}" for warning in run.warnings),
    ]
    command = run.command.strip()
    told = f"\n\nCommand:\n\n```sh\n{command}\n```" if command else ""
    return f"## Benchmark Details\n\n{bullets(lines)}{told}"

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
    domains = ", ".join(plain(domain) for domain in sorted({document.domain for document in documents}))
    about = f" ({domains})" if documents else ""
    return f"{what} text: {counted(len(documents), 'document')}{about}, {tokens}, sha256 {code(Corpus.fingerprint(documents))}."


def _corpus_file(name: str) -> str:
    """The file's name without its folders, and the hash of its present content, if it still exists."""
    digest = f" (sha256 {code(sha256_file(Path(name)))})" if Path(name).is_file() else ""
    return code(name.replace("\\", "/").rsplit("/", 1)[-1]) + digest


def _corpora(run: Run) -> list[str]:
    corpus = run.corpus
    evaluation = next((candidate.evaluation for candidate in run.candidates if candidate.evaluation), None)
    used = f"{run.sensitivity.n_tokens:,} tokens used in windows of {run.sensitivity.n_ctx:,}"
    n_selected = max((selection.n_tokens for selection in run.selections.values()), default=None)
    selected = "not used" if n_selected is None else f"{n_selected:,} tokens scored to choose the files by"
    scored = f"{evaluation.n_tokens:,} tokens scored in {counted(evaluation.n_chunks, 'chunk')}" if evaluation else "not used"
    # two folders may have files with one name, so doubles stay
    return [
        *([f"Corpus files: {', '.join(map(_corpus_file, corpus.files))}."] if corpus.files else []),
        _text("Calibration", corpus.calibration, used),
        *([_text("Imatrix", corpus.imatrix, "the weights of columns are from it")] if corpus.imatrix else []),
        *([_text("Selection", corpus.selection, selected)] if corpus.selection else []),
        _text("Evaluation", corpus.evaluation, scored),
    ]


def benchmark_section(run: Run) -> str:
    """The section: all that the figures were made with, and the types of tensors whose first type could not be written."""
    evaluators = sorted({candidate.evaluation.evaluator for candidate in run.candidates if candidate.evaluation} - {""})
    by = ", ".join(plain(name) for name in evaluators)
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(run.versions.items()))
    seconds = ", ".join(f"{plain(stage)} {number(value, 3)} s" for stage, value in run.timings.items())
    qtypes = run.ours.allocation.qtypes
    lines = [
        _machine(),
        f"Source: {code(run.model.path.name)}, fingerprint {code(run.model.fingerprint)}.",
        *_corpora(run),
        *([f"KL divergence and PPL: measured against the source by {by}."] if by else []),
        *([f"Versions: {versions}."] if versions else []),
        *([f"Time: {seconds}."] if seconds else []),
        *(
            f"{code(tensor)} cannot be {plain(failed)} ({plain(reason)}): ours has it in {plain(qtypes.get(tensor, 'its source type'))}."
            for (tensor, failed), reason in run.unusable.items()
        ),
        *(f"Warning: {plain(warning)}" for warning in run.warnings),
    ]
    command = run.command.strip()
    told = f"\n\nCommand:\n\n```sh\n{command}\n```" if command else ""
    return f"## Benchmark Details\n\n{bullets(lines)}{told}"

"""The sensitivity of a run: estimated where what it depends on has changed, with the imatrix of a text of its own if there is one."""

from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.sensitivity import Sensitivity, load_sensitivity, save_sensitivity, with_columns


def sensitivity_parts(run: Inputs) -> dict[str, Any]:
    """All that the sensitivity is made from."""
    parts = {
        "source": run.source,
        "calibration": Corpus.fingerprint(run.corpus.calibration),
        "architecture": run.stages.identity("architecture"),
        **run.stages.identity("estimate"),
    }
    if run.corpus.imatrix:
        by = run.stages.identity("estimate", run.config.imatrix.plugin)
        parts["imatrix"] = {"text": Corpus.fingerprint(run.corpus.imatrix), **by}
    return parts


def why_estimate(run: Inputs) -> str | None:
    """Why the sensitivity must be estimated (again); None if the one in the folder is good."""
    return run.folder.reason(run.sensitivity_path.stem, run.sensitivity_path, sensitivity_parts(run))


def sensitivity_of(run: Inputs) -> Sensitivity:
    """Estimated and kept, or loaded."""
    path, reason = run.sensitivity_path, why_estimate(run)
    if reason is None:
        run.progress.say(f"estimate: {path.name} is up to date")
        return load_sensitivity(path)
    run.progress.say(f"estimate: {run.stages.name('estimate')} ({reason})")
    with run.timed("estimate"):
        answer = _estimate(run)
    save_sensitivity(answer, path)
    run.folder.record(path.stem, path, sensitivity_parts(run))
    return answer


def _estimate(run: Inputs) -> Sensitivity:
    answer = run.stages.estimate(run.model, run.architecture, run.corpus, run.progress)
    if not run.corpus.imatrix:
        return answer
    run.progress.say(f"estimate: imatrix by {run.config.imatrix.plugin} on {len(run.corpus.imatrix)} documents of its own")
    by = run.stages.estimate(run.model, run.architecture, run.corpus.for_imatrix(), run.progress, imatrix=True)
    return with_columns(answer, by)

"""The sensitivity of a run: estimated where what it depends on has changed, with the imatrix of a text of its own if there is one."""

from dataclasses import dataclass

from bitclass3_core.corpus import Corpus
from bitclass3_core.files import sha256_file
from bitclass3_core.runs.artefact import Artefact
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.sensitivity import Sensitivity, load_sensitivity, save_sensitivity, with_columns


@dataclass(frozen=True, slots=True)
class Estimate:
    """A sensitivity, and the hash of its file: what costs and files depend on."""

    sensitivity: Sensitivity
    sha256: str


def sensitivity_artefact(inputs: Inputs) -> Artefact[Sensitivity]:
    """The file of the run's estimator, with all that the sensitivity is made from; estimators lie side by side."""
    stages, corpus = inputs.stages, inputs.corpus
    parts = {
        "source": inputs.source,
        "calibration": Corpus.fingerprint(corpus.calibration),
        "architecture": inputs.architecture_identity,
        **stages.identity("estimate"),
    }
    if corpus.imatrix:
        by = stages.identity("estimate", inputs.config.imatrix.plugin)
        parts["imatrix"] = {"text": Corpus.fingerprint(corpus.imatrix), **by}
    folder = inputs.context.folder
    path = folder.path / f"sensitivity-{stages.plugin('estimate').name}.safetensors"
    return Artefact(path.stem, path, parts, save_sensitivity, load_sensitivity, folder)


def estimate(inputs: Inputs) -> Estimate:
    """The sensitivity, loaded if nothing that it depends on has changed, else estimated and kept."""
    artefact = sensitivity_artefact(inputs)
    return inputs.context.results.get(artefact.name, artefact.parts, lambda: _load_or_estimate(inputs, artefact))


def _load_or_estimate(inputs: Inputs, artefact: Artefact[Sensitivity]) -> Estimate:
    context = inputs.context
    if artefact.why() is None:
        context.progress.say(f"estimate: {artefact.path.name} is up to date")
    answer = artefact.get(lambda why: _estimate(inputs, why))
    for note in answer.notes:
        context.warn(note)
    return Estimate(answer, sha256_file(artefact.path))


def _estimate(inputs: Inputs, why: str) -> Sensitivity:
    context, stages, corpus = inputs.context, inputs.stages, inputs.corpus
    context.progress.say(f"estimate: {stages.plugin('estimate').name} ({why})")
    with context.timed("estimate", stages.called):
        answer = stages.estimate(inputs.model, inputs.architecture, corpus, context.progress)
        if not corpus.imatrix:
            return answer
        by = inputs.config.imatrix.plugin
        context.progress.say(f"estimate: imatrix by {by} on {len(corpus.imatrix)} documents of its own")
        return with_columns(answer, stages.estimate(inputs.model, inputs.architecture, corpus.for_imatrix(), context.progress, by))

"""The files that a run writes: ours and the stock mix beside it; solved again where a tensor turns out unable to have its type."""

from dataclasses import replace

from bitclass3_core.constraints.gpu import write_override
from bitclass3_core.errors import ContractError, UnusableTypeError
from bitclass3_core.files import sha256_file
from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.gguf.model import total_file_bytes
from bitclass3_core.runs.candidates import TEST, MadeFile
from bitclass3_core.runs.select import Choice, choose
from bitclass3_core.runs.solution import Solution


def ship(run: Solution) -> tuple[list[MadeFile], Choice]:
    """(the file that ships and the stock mix to compare with, what was chosen), written or still good."""
    write_imatrix(run.folder.path / "imatrix.gguf", run.sensitivity, "bitclass3")
    while True:
        try:
            made, choice = _make(run)
            break
        except UnusableTypeError as error:
            _do_without(run, error)
    _check_size(run, made[0])
    write_override(run.folder.path, made[0].name, run.model, run.limits.gpu)
    return made, choice


def _make(run: Solution) -> tuple[list[MadeFile], Choice]:
    model, progress = run.model, run.progress
    choice = choose(run)
    ours, maker = choice.winner, choice.maker
    problem = replace(run.problem, budget_bytes=run.quantizable_bytes(ours.allocation))
    baseline = run.stages.baseline(problem, model, run.architecture)
    keep = run.config.keep
    figures = TEST if keep == "none" and run.corpus.evaluation else None
    shipped = maker.store.make(ours, maker.sensitivity, sha256_file(maker.sensitivity_path), progress, figures)
    made = [shipped]
    if baseline is not None:
        planned = MadeFile.of_mix(run.usable(baseline), model)
        figures = TEST if keep in ("shipped", "none") and run.corpus.evaluation else None
        made.append(run.store.make(planned, run.sensitivity, sha256_file(run.sensitivity_path), progress, figures))
    return made, choice


def _do_without(run: Solution, error: UnusableTypeError) -> None:
    """Note that a tensor cannot have a type, and forget the solution that gave it. Raises the error if that was known already."""
    if (error.tensor, error.qtype) in run.folder.unusable(run.source):
        raise error
    run.folder.put_unusable(run.source, error.tensor, error.qtype, error.reason)
    run.warn(f"{error}; it gets the next larger type that works, and the rest is solved again")
    run.solve_again()


def _check_size(run: Solution, ours: MadeFile) -> None:
    """The promise: never larger than asked, whatever the exporter added to the metadata."""
    size, asked = total_file_bytes(ours.path) if ours.path else ours.n_file_bytes, run.budget.file_bytes
    if asked is not None and size > asked:
        raise ContractError(f"{ours.name}.gguf is {size:,} bytes, asked were {asked:,}; lower the target by {size - asked:,} bytes")


def tidy(run: Solution, files: list[MadeFile], choice: Choice) -> None:
    """Delete the GGUFs that the run is not to keep, now that they are measured."""
    keep = run.config.keep
    if keep == "all":
        return
    names = {made.name for made in files}
    unwanted = [stood for stood in choice.candidates if stood.name not in names]
    unwanted += {"stock": [], "shipped": files[1:], "none": files}[keep]
    for made in unwanted:
        run.store.drop(made)

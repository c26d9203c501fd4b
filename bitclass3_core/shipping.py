"""The files that a run writes: ours and the stock mix beside it; solved again where a tensor turns out unable to have its type."""

from dataclasses import replace
from typing import TYPE_CHECKING

from bitclass3_core.building import larger_type
from bitclass3_core.candidates import TEST, MadeFile, allocation_record
from bitclass3_core.errors import ContractError, UnusableTypeError
from bitclass3_core.files import sha256_file, write_json
from bitclass3_core.gguf_model import total_file_bytes
from bitclass3_core.gpu_split import write_override
from bitclass3_core.imatrix_file import write_imatrix
from bitclass3_core.problem import Allocation
from bitclass3_core.selection import Choice, choose

if TYPE_CHECKING:
    from bitclass3_core.pipeline import Pipeline


def ship(pipeline: "Pipeline") -> tuple[list[MadeFile], Choice]:
    """(the file that ships and the stock mix to compare with, what was chosen), written or still good."""
    write_imatrix(pipeline.folder.path / "imatrix.gguf", pipeline.sensitivity, "bitclass3")
    while True:
        try:
            made, choice = _make(pipeline)
            break
        except UnusableTypeError as error:
            _do_without(pipeline, error)
    _check_size(pipeline, made[0])
    write_override(pipeline.folder.path, made[0].name, pipeline.model, pipeline.limits.gpu)
    return made, choice


def _make(pipeline: "Pipeline") -> tuple[list[MadeFile], Choice]:
    model, progress = pipeline.model, pipeline.progress
    choice = choose(pipeline)
    ours, maker = choice.winner, choice.maker
    problem = replace(pipeline.problem, budget_bytes=pipeline.quantizable_bytes(ours.allocation))
    baseline = pipeline.stages.baseline(problem, model, pipeline.architecture)
    keep = pipeline.config.keep
    figures = TEST if keep == "none" and pipeline.corpus.evaluation else None
    shipped = maker.store.make(ours, maker.sensitivity, sha256_file(maker.sensitivity_path), progress, figures)
    made = [shipped]
    if baseline is not None:
        planned = MadeFile.planned(f"{model.name}-{named(baseline)}", "stock", usable(pipeline, baseline), model)
        figures = TEST if keep in ("shipped", "none") and pipeline.corpus.evaluation else None
        made.append(pipeline.store.make(planned, pipeline.sensitivity, sha256_file(pipeline.sensitivity_path), progress, figures))
    return made, choice


def named(mix: Allocation) -> str:
    """``stock-Q4_K_M``: how the file of a stock mix is called after the model."""
    return (mix.note or mix.solver).replace(" ", "-")


def usable(pipeline: "Pipeline", mix: Allocation) -> Allocation:
    """A mix as it is, but the next larger type where a tensor cannot have its own."""
    qtypes = dict(mix.qtypes)
    failed = pipeline.folder.unusable(pipeline.source)
    for name, q in mix.qtypes.items():
        while (name, qtypes[name]) in failed:
            qtypes[name] = larger_type(pipeline.model.tensors[name], qtypes[name])
        if qtypes[name] != q:
            pipeline.warn(f"{mix.note or mix.solver}: {name} is {qtypes[name]} instead of {q}, which it cannot be")
    return replace(mix, qtypes=qtypes)


def _do_without(pipeline: "Pipeline", error: UnusableTypeError) -> None:
    """Note that a tensor cannot have a type, and forget the solution that gave it. Raises the error if that was known already."""
    if (error.tensor, error.qtype) in pipeline.folder.unusable(pipeline.source):
        raise error
    pipeline.folder.put_unusable(pipeline.source, error.tensor, error.qtype, error.reason)
    pipeline.warn(f"{error}; it gets the next larger type that works, and the rest is solved again")
    pipeline.solve_again()


def _check_size(pipeline: "Pipeline", ours: MadeFile) -> None:
    """The promise: never larger than asked, whatever the exporter added to the metadata."""
    size, asked = total_file_bytes(ours.path) if ours.path else ours.n_file_bytes, pipeline.budget.file_bytes
    if asked is not None and size > asked:
        raise ContractError(f"{ours.name}.gguf is {size:,} bytes, asked were {asked:,}; lower the target by {size - asked:,} bytes")


def write_allocation(pipeline: "Pipeline", allocation: Allocation) -> None:
    """``allocation.json``."""
    write_json(pipeline.folder.path / "allocation.json", allocation_record(allocation, pipeline.costs, pipeline.budget))


def tidy(pipeline: "Pipeline") -> None:
    """Delete the GGUFs that the run is not to keep, now that they are measured."""
    keep, files = pipeline.config.keep, pipeline.files
    if keep == "all":
        return
    names = {made.name for made in files}
    unwanted = [stood for stood in pipeline.choice.candidates if stood.name not in names]
    unwanted += {"stock": [], "shipped": files[1:], "none": files}[keep]
    for made in unwanted:
        pipeline.store.drop(made)

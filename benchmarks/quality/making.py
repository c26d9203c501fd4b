"""Files of one size: stock's, a peer's, ours. Each is planned first, so that one that was measured before need not be written again."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bitclass3_llama_quantize as llama_quantize
from bitclass3_stock import stock_qtypes

from benchmarks.quality.peers import Peers, check_recipe
from benchmarks.quality.results import FileFacts, Results
from benchmarks.quality.texts import EvaluationText, write_documents
from bitclass3_core.corpus import Corpus, Document
from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.files import digest_of, sha256_file
from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.gguf.kernels import library
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import bpw, file_bytes
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import Pipeline
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.places import content_hash

SIZES = ("Q2_K", "Q3_K_S", "IQ3_M", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
# How ours are written: the settings of a run besides model, texts and target.
OURS: Mapping[str, tuple[str, ...]] = {
    "plain": ('export.plugin="llama-quantize"',),
    "feedback": ('export.plugin="gguf"', 'effort="normal"', "export.options.keep_rounded=true"),  # "tuned" begins with the same
    "tuned": ('export.plugin="gguf"', 'effort="high"'),
}
RECIPES = ("stock", "peer", *OURS)
IMATRIX = ('estimate.plugin="imatrix"', "estimate.options.n_tokens=30720", 'export.plugin="llama-quantize"')  # 60 chunks of 512


@dataclass(frozen=True, slots=True)
class Planned:
    """A file to be made: its name in the results, what it is made from, its types, and the function that writes it.

    It may have at most ``most_bytes``: those of the stock mix that it is compared with. ``seconds`` are those of shared steps by name.
    """

    name: str
    made_from: str
    qtypes: Mapping[str, str]
    most_bytes: int
    predicted: float | None
    seconds: Mapping[str, float]
    write: Callable[[], Path]


@dataclass(frozen=True, slots=True)
class Setup:
    """What all files of a benchmark share: the source, the texts of a run, the folder, settings that the user adds to ours."""

    model: GgufModel
    calibration: Sequence[Document]
    texts: Sequence[EvaluationText]
    out: Path
    progress: Progress
    settings: Sequence[str] = ()

    def pipeline(self, folder: str, size: str, settings: Sequence[str]) -> Pipeline:
        """A run of the product at the size of that mix, in a folder of its own; the texts to measure on go along to be held apart."""
        where = self.out / folder
        calibration = write_documents(self.calibration, where / "calibration.jsonl")
        held_out = [Document(text.text, text.name, text.sha256) for text in self.texts]
        flags = {
            ("model", "hf"): self.model.hf,
            ("model", "gguf"): self.model.path,
            ("corpus", "calibration"): [calibration],
            ("corpus", "evaluation"): [write_documents(held_out, where / "evaluation.jsonl")],
            ("budget", "options", "match_stock"): size,
            ("baseline", "plugin"): "none",
            ("out",): where,
        }
        config = load_config(None, flags, (), settings)
        return Pipeline(config, Context.of(config, self.progress, "python -m benchmarks.quality"))


def planned(setup: Setup, peers: Peers, size: str, recipe: str) -> Planned | None:
    """The file of that size by that recipe; None where the peer has none of that size."""
    if recipe in OURS:
        return ours(setup, "run", size, recipe, f"{size}/{recipe}")
    if recipe == "peer" and not peers.has_recipe(size):
        return None
    pipeline = setup.pipeline("recipes", size, IMATRIX)
    pipeline.run("estimate")
    quantizable = pipeline.architecture.quantizable
    if recipe == "stock":
        allocation = Allocation(stock_qtypes(pipeline.model, quantizable, size), "stock", note=f"stock {size}")
    else:
        allocation = Allocation(peers.recipe(size), "peer", note=f"PR #15550 at {size}")
        check_recipe(allocation.qtypes, quantizable, f"pr15550-{size}.txt")
    return _by_imatrix(pipeline, f"{size}/{recipe}", allocation)


def _by_imatrix(pipeline: Pipeline, name: str, allocation: Allocation) -> Planned:
    """A given allocation written by llama-quantize with the imatrix of llama-imatrix."""
    folder, stem = pipeline.context.folder.path, name.replace("/", "-")
    parts = {
        "source": pipeline.model.fingerprint,
        "imatrix": pipeline.solution.estimate.sha256,
        "types": digest_of(dict(allocation.qtypes)),
        "program": content_hash(find_program(llama_quantize.PROGRAM, None).path),
    }

    def write() -> Path:
        write_imatrix(folder / "imatrix.gguf", pipeline.sensitivity, "calibration")
        options = llama_quantize.Options.model_validate({})
        path, recipe = llama_quantize.bitclass3_export(pipeline.model, allocation, folder, stem, options, pipeline.context.progress)
        recipe.unlink()
        return path

    seconds = {"imatrix": pipeline.context.timings.get("estimate", 0.0)}
    return Planned(name, digest_of(parts), allocation.qtypes, _most_bytes(pipeline), None, seconds, write)


def settings_of(recipe: str, given: Sequence[str]) -> list[str]:
    """The settings of one of our recipes: its own, then those that the user gives to all (``key=value``) or to it (``plain:key=value``)."""
    split = [(setting.split("=", 1)[0].rpartition(":")[0], setting) for setting in given]
    return [*OURS[recipe], *(setting.removeprefix(f"{of}:") for of, setting in split if of in ("", recipe))]


def ours(setup: Setup, folder: str, size: str, recipe: str, name: str, more: Sequence[str] = ()) -> Planned:
    """Our file at the size of that mix: measured and solved here, where that is not done yet, and written when it is asked for."""
    pipeline = setup.pipeline(folder, size, [*settings_of(recipe, setup.settings), *more])
    pipeline.run("solve")
    parts = {
        "source": pipeline.model.fingerprint,
        "sensitivity": pipeline.solution.estimate.sha256,
        "calibration": Corpus.fingerprint(pipeline.corpus.calibration),
        "types": digest_of(dict(pipeline.allocation.qtypes)),
        "kernels": library().fingerprint,
        "program": content_hash(find_program(llama_quantize.PROGRAM, None).path),
        "exporters": pipeline.stages.export_identities(),
    }

    def write() -> Path:
        pipeline.run("export")
        path = pipeline.files[0].path
        if path is None:
            raise Bitclass3Error(f"{name}: the run wrote no file; look at --set")
        return path

    predicted = pipeline.costs.total(pipeline.allocation.qtypes)
    seconds = {stage: pipeline.context.timings.get(stage, 0.0) for stage in ("estimate", "measure")}
    return Planned(name, digest_of(parts), pipeline.allocation.qtypes, _most_bytes(pipeline), predicted, seconds, write)


def _most_bytes(pipeline: Pipeline) -> int:
    """Bytes of the file of the stock mix whose size is the target."""
    mix = stock_qtypes(pipeline.model, pipeline.architecture.quantizable, pipeline.config.budget.options["match_stock"])
    return file_bytes(pipeline.model, mix)


def kept(plan: Planned, target: Path, results: Results) -> FileFacts | None:
    """What is known of the file if it lies there as it was written from the same parts: other texts need no other file."""
    known = results.file(plan.name)
    same = known is not None and known.made_from == plan.made_from and target.is_file() and sha256_file(target) == known.sha256
    return known if same else None


def made(plan: Planned, model: GgufModel, target: Path, results: Results) -> FileFacts:
    """Write the file as ``target`` and note it. Raises Bitclass3Error if it came out larger than it may be."""
    begin, before = time.monotonic(), results.file(plan.name)
    path = plan.write()
    seconds = time.monotonic() - begin
    if before is not None and before.made_from == plan.made_from:
        seconds = max(seconds, before.seconds)  # made again, from tensors that were left of the first time
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    n_bytes = target.stat().st_size
    if n_bytes > plan.most_bytes:
        target.unlink()
        more = n_bytes - plan.most_bytes
        raise Bitclass3Error(f"{plan.name} came out with {n_bytes:,} bytes, {more:,} more than the mix that it is compared with")
    written = GgufModel(target).tensors  # a type that turned out not to work was replaced on the way
    qtypes = {name: written[name].dtype for name in plan.qtypes}
    facts = FileFacts(plan.made_from, sha256_file(target), n_bytes, bpw(model, qtypes), qtypes, plan.predicted, round(seconds, 1))
    results.put_file(plan.name, facts)
    return facts

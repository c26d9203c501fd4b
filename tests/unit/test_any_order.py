"""Results may be asked for in any order, and what is asked with other settings is a result of its own."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from command import CALIBRATION, EVALUATION
from gguf_files import METADATA, write_gguf
from spy_plugin import write_wrapper

import bitclass3_core
from bitclass3_core.at_work import working
from bitclass3_core.corpus import Corpus, read_documents
from bitclass3_core.errors import ConfigError
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Sensitivity

SHAPES = {
    "token_embd.weight": ((64, 256), "BF16"),
    "blk.0.attn_q.weight": ((256, 256), "BF16"),
    "blk.0.ffn_down.weight": ((128, 512), "BF16"),
    "output_norm.weight": ((256,), "F32"),
    "output.weight": ((64, 256), "BF16"),
}
# A third party's estimator: its options are a plain pydantic class that declares what it has to tell
ESTIMATOR = """
from pathlib import Path
from typing import ClassVar

import bitclass3_uniform
from bitclass3_core import hookimpl
from pydantic import BaseModel, ConfigDict

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    efforts: ClassVar = {"normal": {"x": 7}}
    reads_text: ClassVar[bool] = READS_TEXT
    x: int = 0

@hookimpl
def bitclass3_estimate(model, architecture, corpus, options: Options):
    with (Path(__file__).parent / "calls.txt").open("a") as log:
        log.write(f"{options.x} {len(corpus.calibration)} {len(corpus.imatrix)}\\n")
    return bitclass3_uniform.bitclass3_estimate(model, architecture)
"""
EVALUATOR = """
import numpy as np
from bitclass3_core import hookimpl
from bitclass3_core.evaluation import summarize

@hookimpl
def bitclass3_evaluate(reference, candidates):
    zeros = np.zeros(512)
    figures = (np.full(512, 0.01, np.float32), zeros == 0, zeros + 2, zeros + 2, np.full(512, "text"), 16, "flat")
    return [summarize(candidate.path.stem, *figures) for candidate in candidates]
"""
RUN = type(bitclass3_core.open_run(settings={"out": "out/none"}))
PROPERTIES = sorted(
    {
        name
        for cls in RUN.__mro__
        for name, member in vars(cls).items()
        if isinstance(member, (property, cached_property)) and not name.startswith("_")
    }
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = {**METADATA, "llama.embedding_length": 256, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 1}
    return write_gguf(tmp_path_factory.mktemp("model") / "model-bf16.gguf", SHAPES, metadata=metadata)


@pytest.fixture
def opened(gguf: Path, tmp_path: Path) -> Callable[..., Any]:
    """Opens a run whose plugins need no torch; keyword arguments are keys, with __ for the dot."""

    def open_run(reads_text: bool = False, **keys: Any) -> Any:
        (tmp_path / "mine.py").write_text(ESTIMATOR.replace("READS_TEXT", str(reads_text)))
        (tmp_path / "flat.py").write_text(EVALUATOR)
        settings = {
            "model.gguf": gguf,
            "corpus.calibration": [CALIBRATION],
            "corpus.evaluation": [EVALUATION],
            "qtypes.menu": ["Q4_K", "Q8_0"],
            "estimate.plugin": str(tmp_path / "mine.py"),
            "evaluate.plugin": str(tmp_path / "flat.py"),
            "export.plugin": ["gguf"],
            "report.plugin": [],
            "budget.options": {"target_bpw": 6.5},
            "out": tmp_path / "out",
        }
        given = {**settings, **{key.replace("__", "."): value for key, value in keys.items()}}
        return bitclass3_core.open_run(settings={key: value for key, value in given.items() if value is not None})

    return open_run


def estimates(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


def test_the_properties_of_a_run_are_found() -> None:
    assert {"model", "architecture", "corpus", "sensitivity", "costs", "problem", "allocation", "files", "result"} <= set(
        PROPERTIES
    )


@pytest.mark.parametrize("name", PROPERTIES)
def test_any_property_may_be_asked_for_first(name: str, opened: Callable[..., Any]) -> None:
    assert getattr(opened(), name) is not None


def test_a_sibling_at_another_effort_gets_its_own_sensitivity(opened: Callable[..., Any], tmp_path: Path) -> None:
    run = opened()
    assert isinstance(run.sensitivity, Sensitivity)
    assert run.sibling(run.config).sensitivity is run.sensitivity
    assert run.sibling(run.config.model_copy(update={"effort": "normal"})).sensitivity is not run.sensitivity
    assert [line.split()[0] for line in estimates(tmp_path)] == ["0", "7"]


def test_a_sibling_with_other_wrappers_gets_its_own_sensitivity(opened: Callable[..., Any], tmp_path: Path) -> None:
    run = opened()
    assert isinstance(run.sensitivity, Sensitivity)
    around = run.sibling(run.config.model_copy(update={"wrappers": [str(write_wrapper(tmp_path))]}))
    assert around.sensitivity is not run.sensitivity
    assert len(estimates(tmp_path)) == 2
    assert (tmp_path / "wrapped.txt").read_text() == "estimate\n"


def test_a_sibling_without_wrappers_gets_its_own_sensitivity(opened: Callable[..., Any], tmp_path: Path) -> None:
    run = opened(wrappers=[str(write_wrapper(tmp_path))])
    assert isinstance(run.sensitivity, Sensitivity)
    assert run.sibling(run.config.model_copy(update={"wrappers": []})).sensitivity is not run.sensitivity
    assert len(estimates(tmp_path)) == 2


def test_a_wrapper_alone_makes_a_run_estimate_nothing_again(opened: Callable[..., Any], tmp_path: Path) -> None:
    """One that only looks on, or that ended a run halfway, must not cost what was measured."""
    assert opened(wrappers=[str(write_wrapper(tmp_path))]).sensitivity.tensors
    assert opened().sensitivity.tensors
    assert len(estimates(tmp_path)) == 1


@pytest.mark.parametrize("reads_text", [True, False])
def test_an_estimator_that_reads_text_gets_it_split_for_the_imatrix(
    reads_text: bool, opened: Callable[..., Any], tmp_path: Path
) -> None:
    """As kl-hessian does: half of the calibration text is then for the imatrix alone."""
    run = opened(reads_text, select__enabled=True, imatrix__plugin="uniform")
    n_documents = len(read_documents(CALIBRATION))
    assert run.sensitivity.tensors
    calibration, imatrix = map(int, estimates(tmp_path)[0].split()[1:])
    assert calibration + imatrix == n_documents
    assert imatrix == (n_documents // 2 if reads_text else 0)


def test_tensors_that_were_rounded_by_other_code_are_not_taken(gguf: Path, tmp_path: Path) -> None:
    """A killed export goes on with what it has rounded, unless the exporter's version is another one."""
    from bitclass3_gguf import Options
    from bitclass3_gguf.rounded import Export, kept_in

    from bitclass3_core.gguf_model import GgufModel
    from bitclass3_core.model import Architecture
    from bitclass3_core.problem import Allocation

    model, nothing = GgufModel(gguf), Sensitivity({}, "none", 0, 0, "")
    export = Export(model, Architecture("", frozenset()), Allocation({}), nothing, Corpus((), ()), Options(), Silent())
    digests = []
    for version in ("1", "1", "2"):
        with working("gguf", "bitclass3_export", version):
            digests.append(kept_in(tmp_path, export).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_target_that_is_given_replaces_any_target_of_the_file(gguf: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline.toml"
    for target in (
        "target_bpw = 4",
        "target_size = '3GiB'",
        "match_stock = 'Q4_K_M'",
        f"match_file = '{gguf}'",
        "fit_vram = '8GiB'",
    ):
        pipeline.write_text(f"[budget]\n{target}\n")
        run = bitclass3_core.open_run(pipeline, {"budget.target_bpw": 4.8, "model.gguf": gguf, "out": tmp_path / "out"})
        assert run.config.budget.options == {"target_bpw": 4.8}
        assert run.budget.label == "4.80bpw"


def test_a_folder_that_is_not_named_is_the_models(
    opened: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened(out=None).run("estimate")
    assert (tmp_path / "out" / "model-bf16" / "run.json").is_file()


def test_a_target_kld_is_searched_for(opened: Callable[..., Any]) -> None:
    """The evaluator says 0.01 of every file: then the smallest size is the answer."""
    run = opened(budget__options={}, budget__target_kld=0.02)
    run.run("evaluate")
    types = {name: q for name, q in run.allocation.qtypes.items() if q != "BF16"}
    assert set(types.values()) == {"Q4_K"}
    assert run.result.ours.name.endswith("bpw")


def test_a_folder_of_llama_cpp_that_is_not_there_is_refused(opened: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"llama\.cpp folder .*gone does not exist; check --llama-cpp"):
        opened(llama_cpp=tmp_path / "gone").run("estimate")

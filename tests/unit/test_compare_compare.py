"""Files held against their source: what is refused, what is measured and kept, where large files go."""

import json
from pathlib import Path

import pytest
from gguf_files import heavy_tailed
from run_fixtures import HOOKS, LOG, MATRICES, TENSORS, SmallRun, write_documents, write_model

from bitclass3_core.compare.compare import Compared, compare
from bitclass3_core.compare.comparison import Comparison, load_comparison
from bitclass3_core.errors import Bitclass3Error, ConfigError, InterruptedRunError, ModelFileError
from bitclass3_core.run_config import ModelSection, RunConfig
from bitclass3_core.runs.folder import RunFolder

# An evaluator that says where it would put large files
PLACING = f"""{HOOKS}
from bitclass3_core.evaluation import summarize
from bitclass3_core.options import PluginOptions

class Options(PluginOptions):
    folder: Path | None = None

    def placed_in(self, folder):
        return self if self.folder else self.model_copy(update={{"folder": folder}})

@hookimpl
def bitclass3_evaluate(candidates, options: Options):
    (Path(__file__).parent / "place.txt").write_text(f"{{options.folder}} {{options.folder.is_dir()}}")
    zeros = np.zeros(64)
    figures = (np.full(64, 0.1, np.float32), zeros == 0, zeros, zeros, np.full(64, "text"), 16, "placing")
    return [summarize(candidate.path.stem, *figures) for candidate in candidates]
"""
STOPPED = f"{HOOKS}\n@hookimpl\ndef bitclass3_evaluate(candidates):\n    raise KeyboardInterrupt\n"
REPORT = f"""{HOOKS}
@hookimpl
def bitclass3_report(run, out):
    {LOG}
    path = out / "report.md"
    path.write_text(" ".join(f"{{c.name}}:{{c.kind}}" for c in run.candidates))
    return [path]
"""


def quantized(folder: Path, name: str, kind: str = "Q8_0", seed: int | None = None) -> Path:
    """A file of the model with every matrix at a type."""
    folder.mkdir(exist_ok=True)
    tensors = {tensor: (shape, kind if tensor in MATRICES else q) for tensor, (shape, q) in TENSORS.items()}
    values = {} if seed is None else {"blk.0.attn_q.weight": heavy_tailed((32, 256), seed)}
    return write_model(folder / f"{name}.gguf", tensors=tensors, values=values)


@pytest.fixture
def files(small: SmallRun) -> list[Path]:
    return [quantized(small.folder, "eight"), quantized(small.folder, "four", "Q4_0")]


def compared(small: SmallRun, files: list[Path], *settings: str, out: bool = True, **changes: object) -> Comparison:
    config = small.config(*settings).model_copy(update={**({} if out else {"out": None}), **changes})
    return compare(config, files, small.progress, "bitclass3 compare")


def test_figures_of_each_file_and_its_difference_from_the_first(small, files):
    found = compared(small, files)
    eight, four = found.candidates
    assert (eight.name, four.name) == ("eight", "four")
    assert eight.file_bytes == files[0].stat().st_size
    assert eight.evaluation.mean_kld < four.evaluation.mean_kld
    assert list(found.paired) == ["four"]
    mean, se = found.paired["four"]
    assert mean == pytest.approx(four.evaluation.mean_kld - eight.evaluation.mean_kld, rel=1e-3)
    assert 0 < se < mean
    assert found.reference["file"] == "small.gguf"
    assert dict(eight.allocation.qtypes) == dict.fromkeys(MATRICES, "Q8_0")


def test_what_was_found_is_kept_in_the_folder(small, files):
    found = compared(small, files)
    assert {"compare.json", "compare.md", "types.csv"} < small.files()
    loaded = load_comparison(small.out / "compare.json")
    assert loaded.paired == found.paired
    assert json.loads((small.out / "compare.json").read_text())["command"] == "bitclass3 compare"


def test_file_is_measured_once(small, files):
    first, again = compared(small, files), compared(small, files)
    assert small.measured == ["eight", "four"]
    assert again.paired == first.paired
    compared(small, [*files, quantized(small.folder, "five", "Q5_0")])
    assert small.measured == ["eight", "four", "five"]


def test_order_is_that_of_the_command(small, files):
    compared(small, files)
    turned = compared(small, files[::-1])
    assert [candidate.name for candidate in turned.candidates] == ["four", "eight"]
    assert turned.paired["eight"][0] < 0


def test_other_text_weights_or_evaluator_are_measured_again(small, files):
    compared(small, files[:1])
    write_documents(small.folder / "evaluation.jsonl", "other")
    compared(small, files[:1])
    quantized(small.folder, "eight", seed=99)
    compared(small, files[:1])
    compared(small, files[:1], "evaluate.options.favour=eight")
    assert small.measured == ["eight"] * 4


def test_files_of_one_name_are_told_apart(small):
    files = [quantized(small.folder / folder, "same", kind) for folder, kind in (("x", "Q8_0"), ("y", "Q4_0"))]
    for _ in range(2):
        one, other = compared(small, files).candidates
        assert (one.name, other.name) == ("x/same", "y/same")
        assert one.evaluation.mean_kld < other.evaluation.mean_kld
    assert small.measured == ["same", "same"]


def test_without_a_folder_nothing_is_left(small, files):
    for _ in range(2):
        found = compared(small, files, out=False)
        assert found.candidates[0].evaluation is not None
    assert small.measured == ["eight", "four"] * 2
    assert not small.out.exists()
    assert {path.name for path in small.folder.glob("*.npz")} == set()


def test_without_text_types_and_sizes_are_compared(small, files):
    found = compared(small, files, corpus=RunConfig().corpus, model=ModelSection())
    assert [candidate.evaluation for candidate in found.candidates] == [None, None]
    assert (found.paired, found.reference["file"]) == ({}, "eight.gguf")
    assert small.progress.warned == ["no evaluation text: only sizes and types are compared; give --eval-corpus to get KLD and PPL"]
    assert small.measured == []


def test_missing_reference_is_refused(small, files):
    with pytest.raises(ConfigError, match="no reference to measure against; give --reference"):
        compared(small, files, model=ModelSection())


def test_reference_that_is_quantized_is_refused(small, files):
    with pytest.raises(ModelFileError, match=r"four\.gguf is already quantized"):
        compared(small, files, model=ModelSection(gguf=files[1]))


def test_file_that_is_named_twice_is_refused(small, files):
    with pytest.raises(ConfigError, match=r"is named twice; name each file once"):
        compared(small, [files[0], files[1], files[0]])


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({**TENSORS, "output.weight": ((48, 256), "BF16")}, r"it has output\.weight"),
        ({name: TENSORS[name] for name in TENSORS if name != "blk.0.ffn_down.weight"}, r"it lacks blk\.0\.ffn_down\.weight"),
    ],
)
def test_file_of_another_model_is_named_before_anything_is_measured(small, files, tensors, says):
    other = write_model(small.folder / "other.gguf", tensors=tensors)
    with pytest.raises(ModelFileError, match=rf"other\.gguf cannot be compared with small\.gguf: {says}"):
        compared(small, [*files, other])
    assert small.measured == []


def test_typo_is_found_before_anything_is_measured(small, files):
    with pytest.raises(ConfigError, match="takes no options, got x"):
        compared(small, files, "estimate.options.x=1")
    assert small.measured == []


def place(small: SmallRun) -> list[str]:
    return (small.folder / "place.txt").read_text().split()


def test_large_files_go_into_the_folder(small, files):
    compared(small, files, f"evaluate.plugin={small.plugin('placing', PLACING)!r}")
    assert place(small) == [str(small.out), "True"]


def test_large_files_go_nowhere_near_the_models_without_a_folder(small, files):
    compared(small, files, f"evaluate.plugin={small.plugin('placing', PLACING)!r}", out=False)
    path, was_there = place(small)
    assert was_there == "True"
    assert not Path(path).exists()
    assert small.folder not in Path(path).parents


def test_large_files_go_where_the_user_says(small, files):
    settings = (f"evaluate.plugin={small.plugin('placing', PLACING)!r}", f"evaluate.options.folder={str(small.folder)!r}")
    compared(small, files, *settings)
    assert place(small) == [str(small.folder), "True"]


def test_evaluator_that_was_placed_measures_once_too(small, files):
    settings = f"evaluate.plugin={small.plugin('placing', PLACING)!r}"
    compared(small, files, settings)
    (small.folder / "place.txt").unlink()
    compared(small, files, settings)
    assert not (small.folder / "place.txt").exists()


@pytest.mark.parametrize(("out", "says"), [(True, "what was measured is kept"), (False, "give --out DIR to keep what is measured")])
def test_ctrl_c(small, files, out, says):
    with pytest.raises(InterruptedRunError, match=rf"^interrupted; {says}$"):
        compared(small, files, f"evaluate.plugin={small.plugin('stopped', STOPPED)!r}", out=out)


def test_folder_is_held_by_one_comparison(small, files):
    with RunFolder(small.out).locked(), pytest.raises(Bitclass3Error, match="another run is at work in"):
        compared(small, files)


def test_reports_see_the_files_as_candidates_without_a_prediction(small, files):
    compared(small, files, f"report.plugin=[{small.plugin('report', REPORT)!r}]")
    assert (small.out / "report.md").read_text() == "eight:compared four:compared"
    compared(small, files, f"report.plugin=[{small.plugin('report', REPORT)!r}]", out=False)
    assert small.logged == ["report"], "without a folder there is no report"


def test_comparison_of_one_file_has_no_differences(small, files):
    opened = Compared.of(small.config(), files[:1], small.progress)
    found = opened.comparison(opened.evaluations(RunFolder(small.out), small.progress), "command")
    assert (found.paired, found.command) == ({}, "command")

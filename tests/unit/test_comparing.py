"""Anyone's files side by side: what cannot be compared and why, the tables, and that nothing is measured twice."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command import Done, bitclass3
from gguf_files import METADATA, TENSORS, heavy_tailed, write_gguf, write_split

from bitclass3_core.compare.comparison import load_comparison, on_front, type_differences
from bitclass3_core.compare.files import check_comparable, unique_names
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.problem import Allocation
from bitclass3_core.results import Candidate

TOKENS = "tokenizer.ggml.tokens"
Q8 = {name: (shape, "Q8_0" if len(shape) > 1 else q) for name, (shape, q) in TENSORS.items()}
# An evaluator whose KLD is the number of quantized tensors; it counts its calls in a file
JUDGE = """
from pathlib import Path
import numpy as np
from bitclass3_core import hookimpl
from bitclass3_core.evaluation import summarize

@hookimpl
def bitclass3_evaluate(reference, candidates, corpus):
    with Path(__file__).with_suffix(".calls").open("a") as file:
        file.write(" ".join(c.path.stem for c in candidates) + "\\n")
    found = []
    for candidate in candidates:
        n = sum(info.dtype.startswith("Q") for info in candidate.tensors.values())
        kld = np.full(64, n / 100, np.float32) + np.arange(64, dtype=np.float32) / 1e5
        nll = np.ones(64)
        domains = np.array(["code", "wiki"])[np.arange(64) % 2]
        found.append(summarize(candidate.path.stem, kld, kld > 0, nll + n, nll, domains, 16, "judge"))
    return found
"""


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "source.gguf")


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    path = tmp_path / "judge.py"
    path.write_text(JUDGE)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.txt"
    path.write_text("some text\n")
    return path


def quantized(path: Path, n: int) -> Path:
    """The model with its first ``n`` matrices at Q8_0."""
    matrices = [name for name, (shape, _) in TENSORS.items() if len(shape) > 1][:n]
    return write_gguf(path, {name: Q8[name] if name in matrices else kept for name, kept in TENSORS.items()})


def compare(*arguments: object, **options: object) -> Done:
    return bitclass3("compare", *arguments, "--set", "architecture.plugin=generic", **options)  # these files name no heads


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "qwen3"}, r"its architecture is 'qwen3', not 'llama'"),
        ({"metadata": {**METADATA, TOKENS: ["<s>", "a"]}}, r"its vocabulary has 2 tokens, not 4"),
        ({"metadata": {**METADATA, TOKENS: ["<s>", "b", "bé", "日本"]}}, r"token 1 of its vocabulary is 'b', not 'a'"),
        (
            {"tensors": {k: v for k, v in TENSORS.items() if "attn_q" not in k}},
            r"it lacks blk.0.attn_q.weight, blk.1.attn_q.weight",
        ),
        ({"tensors": {**TENSORS, "output.weight": ((48, 256), "BF16")}}, r"it has output.weight"),
        (
            {"tensors": {**TENSORS, "blk.0.attn_q.weight": ((32, 256), "BF16")}},
            r"shape of blk.0.attn_q.weight is \(32, 256\), not \(16, 256\)",
        ),
    ],
)
def test_what_differs_is_named(reference: Path, tmp_path: Path, changes: dict, says: str) -> None:
    other = write_gguf(tmp_path / "other.gguf", **changes)
    with pytest.raises(ModelFileError, match=f"other.gguf cannot be compared with source.gguf: {says}; compare files of one model"):
        check_comparable(GgufModel(reference), GgufModel(other))


def test_vectors_may_come_and_go(reference: Path, tmp_path: Path) -> None:
    rope = {**TENSORS, "rope_freqs.weight": ((64,), "F32")}
    check_comparable(GgufModel(reference), GgufModel(write_gguf(tmp_path / "other.gguf", rope)))


def candidate(name: str, n_bytes: int, kld: float | None, **qtypes: str) -> Candidate:
    figures = None if kld is None else Evaluation(name, 1, 1, kld, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0)
    return Candidate(name, "compared", Allocation(qtypes), None, n_bytes, 4.5, None, figures)


def test_front_is_what_nothing_beats() -> None:
    files = [
        candidate(n, size, kld) for n, size, kld in (("a", 10, 0.3), ("b", 20, 0.1), ("c", 20, 0.2), ("d", 30, 0.1), ("e", 5, None))
    ]
    assert on_front(files) == [True, True, False, False, False]
    twins = [candidate("a", 10, 0.3), candidate("b", 10, 0.3)]
    assert on_front(twins) == [True, True]


def test_types_that_differ() -> None:
    files = [candidate("a", 1, None, x="Q4_K", y="Q6_K"), candidate("b", 1, None, x="Q4_K", y="Q8_0")]
    assert type_differences(files) == {"y": ("Q6_K", "Q8_0")}


def test_names_are_short_and_unique(tmp_path: Path) -> None:
    paths = [tmp_path / "x/M-Q4.gguf", tmp_path / "y/M-Q4.gguf", tmp_path / "M-00001-of-00002.gguf"]
    assert unique_names(paths) == ["x/M-Q4", "y/M-Q4", "M"]


def test_tables_json_and_files(reference: Path, judge: Path, text: Path, tmp_path: Path) -> None:
    files = [quantized(tmp_path / "one.gguf", 1), quantized(tmp_path / "three.gguf", 3)]
    arguments = [*files, "--reference", reference, "--eval-corpus", text, "--plugin", judge, "--out", tmp_path / "out"]
    done = compare(*arguments)
    assert done.code == 0, done.err
    assert "0.0103 ± " in done.out
    assert "+0.0200 ± 0.0000" in done.out
    assert "types of 2 of 5 tensors differ" in done.out
    assert "mean KLD by domain" in done.out
    again = compare(*arguments, "--json")
    assert judge.with_suffix(".calls").read_text() == "one three\n", "nothing is measured twice"
    values = json.loads(again.out)
    assert [(f["name"], f["on_pareto_front"]) for f in values["files"]] == [("one", True), ("three", True)]
    assert values["type_differences"]["blk.0.attn_q.weight"] == ["BF16", "Q8_0"]
    assert values["paired_differences"]["three"]["mean"] == pytest.approx(0.02, abs=1e-6)
    assert set(values["files"][0]["evaluation"]["domains"]) == {"code", "wiki"}
    written = load_comparison(tmp_path / "out" / "compare.json")
    assert written.candidates[1].evaluation is not None
    assert written.candidates[1].evaluation.mean_kld == pytest.approx(0.0303, abs=1e-4)
    rows = list(csv.reader((tmp_path / "out" / "types.csv").read_text().splitlines()))
    assert rows[0] == ["tensor", "one", "three", "differs"]
    assert {row[0] for row in rows if row[-1] == "yes"} == {"blk.0.attn_q.weight", "blk.0.ffn_down.weight"}
    assert "| one |" in (tmp_path / "out" / "compare.md").read_text()
    assert (tmp_path / "out" / "plots" / "size_kld.png").read_bytes().startswith(b"\x89PNG")


def test_another_file_is_measured_alone(reference: Path, judge: Path, text: Path, tmp_path: Path) -> None:
    one, two = quantized(tmp_path / "one.gguf", 1), quantized(tmp_path / "two.gguf", 2)
    rest = ["--reference", reference, "--eval-corpus", text, "--plugin", judge, "--out", tmp_path / "out", "--quiet"]
    assert compare(one, *rest).code == 0
    assert compare(one, two, *rest).code == 0
    assert judge.with_suffix(".calls").read_text() == "one\ntwo\n"


def test_without_reference_and_text_types_and_sizes(tmp_path: Path) -> None:
    done = compare(quantized(tmp_path / "one.gguf", 1), quantized(tmp_path / "two.gguf", 2))
    assert done.code == 0, done.err
    assert "only sizes and types are compared" in done.err
    assert "types of 1 of 5 tensors differ" in done.out
    same = compare(tmp_path / "one.gguf", quantized(tmp_path / "same.gguf", 1))
    assert "all tensors have the same type in every file" in same.out


def test_split_file(tmp_path: Path, reference: Path) -> None:
    done = compare(write_split(tmp_path)[0], "--reference", reference, "--json")
    assert done.code == 0, done.err
    (file,) = json.loads(done.out)["files"]
    assert file["name"] == "model"
    assert file["file_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("model-*.gguf"))


def test_bad_input(reference: Path, tmp_path: Path, text: Path) -> None:
    one = quantized(tmp_path / "one.gguf", 1)
    shape = write_gguf(
        tmp_path / "shape.gguf", {**TENSORS, "output_norm.weight": ((256,), "F32"), "output.weight": ((48, 256), "BF16")}
    )
    cases = [
        ([tmp_path / "no.gguf"], 1, "no.gguf does not exist"),
        ([one, one], 2, "is named twice; name each file once"),
        ([one, "--eval-corpus", text], 2, "no reference to measure against; give --reference"),
        ([one, "--reference", tmp_path / "nothing.gguf"], 1, "nothing.gguf"),
        ([one, shape], 1, "shape.gguf cannot be compared with one.gguf: it has output.weight"),
        ([one, "--reference", one], 1, "one.gguf is already quantized"),
    ]
    for arguments, code, says in cases:
        done = compare(*arguments)
        assert (done.code, says in done.error) == (code, True), done.err


def test_damaged_comparison(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    for content in ("", "[]", '{"files": [{"name": 1}]}'):
        path.write_text(content)
        with pytest.raises(ModelFileError, match="is no result of bitclass3 compare"):
            load_comparison(path)


def test_other_weights_are_another_file(reference: Path, judge: Path, text: Path, tmp_path: Path) -> None:
    one = quantized(tmp_path / "one.gguf", 1)
    rest = ["--reference", reference, "--eval-corpus", text, "--plugin", judge, "--out", tmp_path / "out", "--quiet"]
    assert compare(one, *rest).code == 0
    write_gguf(one, values={"blk.1.attn_q.weight": heavy_tailed((16, 256), 99).astype(np.float32)})
    assert compare(one, *rest).code == 0
    assert judge.with_suffix(".calls").read_text() == "one\none\n"

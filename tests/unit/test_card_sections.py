"""What the card inherits, compares and tells apart: licence, files by others, published figures, another run, programs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitclass3_model_card as card
import numpy as np
import pytest
import yaml
from explorer_runs import make_run

from bitclass3_core.compare.comparison import Comparison
from bitclass3_core.corpus import Corpus, document
from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.gguf.rounding_gains import SUFFIX, RoundingGain, TuningGain, save_gains
from bitclass3_core.results import Run
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity, save_sensitivity

CARD = """---
license: other
license_name: tiny-license
license_link: https://example.org/LICENSE
language:
- en
- de
pipeline_tag: text-generation
tags: [x]
---

# The source
"""
PUBLISHED = """
[[figures]]
name = "Somebody's Q4_K_M"
source = "https://example.org/somebody"
bpw = 4.9
size = "5.4 GB"
ppl = 2.069
"""


def text_of(run: Run, out: Path, **options: Any) -> str:
    (path,) = card.bitclass3_report(run, out, card.ModelCardOptions(**options))
    return path.read_text(encoding="utf-8")


def front(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n", 2)[1]))


def with_source_card(run: Run, folder: Path, content: str = CARD) -> Run:
    folder.mkdir()
    (folder / "README.md").write_text(content, encoding="utf-8")
    run.model.hf = folder  # type: ignore[misc]
    return run


def section(text: str, name: str) -> str:
    return text.split(f"## {name}")[1].split("\n## ")[0]


def test_licence_language_and_task_come_from_the_sources_card(tmp_path: Path) -> None:
    text = text_of(with_source_card(make_run(), tmp_path / "hf"), tmp_path)
    head = front(text)
    assert (head["license"], head["license_name"], head["license_link"]) == ("other", "tiny-license", "https://example.org/LICENSE")
    assert (head["language"], head["pipeline_tag"]) == (["en", "de"], "text-generation")
    assert "`other` (tiny-license) (https://example.org/LICENSE), inherited from Tiny-1B (from the source's model card)" in text


def test_metadata_count_more_than_the_sources_card(tmp_path: Path) -> None:
    run = with_source_card(make_run(), tmp_path / "hf")
    run.model.metadata["general.license"] = "MIT"  # type: ignore[index]
    text = text_of(run, tmp_path)
    assert front(text)["license"] == "mit"
    assert "license_name" not in front(text)
    assert "(from the source's metadata)" in text


def test_stated_licence(tmp_path: Path) -> None:
    text = text_of(make_run(), tmp_path, license="apache-2.0")
    assert front(text)["license"] == "apache-2.0"
    assert "`apache-2.0`, stated by the publisher." in text


@pytest.mark.parametrize(
    "content", ["no front matter", "---\n- a list\n---\n", "---\na: [\n---\n", "---\nlicense: 3\nlanguage: 4\n---\n"]
)
def test_source_card_that_says_nothing(tmp_path: Path, content: str) -> None:
    text = text_of(with_source_card(make_run(), tmp_path / "hf", content), tmp_path)
    assert set(front(text)) == {"library_name", "quantized_by", "tags"}
    assert "Neither the source's metadata nor its model card name a license" in text


def test_base_model_is_the_hub_name_that_was_given(tmp_path: Path) -> None:
    text = text_of(replace(make_run(), config={"model": {"hf": "Someone/Tiny-1B"}}), tmp_path)
    assert (front(text)["base_model"], front(text)["base_model_relation"]) == ("Someone/Tiny-1B", "quantized")


def comparison(run: Run, path: Path, fingerprint: str = "") -> Path:
    theirs = replace(run.candidates[1], name="theirs", kind="compared", path=Path("theirs-Q4_K_M.gguf"), predicted_cost=None)
    reference = {"name": "x", "file": "src.gguf", "fingerprint": fingerprint or run.model.fingerprint, "bpw": 16.0}
    Comparison(reference, Corpus.fingerprint(run.corpus.evaluation), (theirs,), {}).save(path)
    return path


def test_every_row_of_the_comparison_names_its_source(tmp_path: Path) -> None:
    run = make_run()
    text = text_of(run, tmp_path, compared=[comparison(run, tmp_path / "compare.json")])
    part = section(text, "How It Compares")
    rows = [line for line in part.splitlines() if line.startswith("| `")]
    assert len(rows) == 4
    assert next(line for line in rows if "theirs-Q4_K_M.gguf" in line).endswith(
        "| made by others, measured by us (`compare.json`) |"
    )
    assert sum("this run |" in line and "llama.cpp" not in line for line in rows) == 2
    assert "Figures of files made by others are our own measurements" in section(text, "Disclaimer")
    assert "Published" not in text


def test_published_figures_stand_apart(tmp_path: Path) -> None:
    (tmp_path / "published.toml").write_text(PUBLISHED)
    text = text_of(make_run(), tmp_path, published=[tmp_path / "published.toml"])
    part = section(text, "How It Compares")
    assert "Published by others, not measured here." in part
    assert "| Somebody's Q4_K_M | 4.90 | 5.4 GB | 2.069 | - | - | https://example.org/somebody |" in part
    assert "measured by us" not in part
    assert "Published figures are their publishers' own" in section(text, "Disclaimer")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[[figures]]\nname = "x"\n', "figures.0.source: field required; each needs a name and a source"),
        ('[[figures]]\nname = "x"\nsource = "y"\nkld = 3\n', "figures.0.kld: extra inputs are not permitted"),
        ("[[", "cannot be read"),
    ],
)
def test_published_figures_that_cannot_be_used(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "published.toml").write_text(content)
    with pytest.raises(ConfigError, match=says):
        text_of(make_run(), tmp_path, published=[tmp_path / "published.toml"])


def test_compared_against_another_source(tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(ModelFileError, match=r"was measured against src.gguf, this run's source is Tiny-1B-BF16.gguf"):
        text_of(run, tmp_path, compared=[comparison(run, tmp_path / "compare.json", "another")])


def save_other(folder: Path, scores: dict[str, float]) -> Path:
    folder.mkdir()
    tensors = {name: TensorSensitivity(linear=Powers(np.full(4, score, np.float32))) for name, score in scores.items()}
    save_sensitivity(Sensitivity(tensors, "kl-hessian", 1024, 512, "c"), folder / "sensitivity-kl-hessian.safetensors")
    return folder


def test_what_differs_from_another_run(tmp_path: Path) -> None:
    run = make_run()
    scores = dict(run.sensitivity.scores())
    top = "blk.7.attn_v.weight"
    folder = save_other(tmp_path / "other", {**{name: score / 2 for name, score in scores.items()}, top: 4.0})
    part = section(text_of(run, tmp_path, other_run=folder), "Key Sensitivity Findings (Tiny-1B)")
    assert "Against `other`, another run (85 tensors of both): most sensitive here" in part
    assert "there `blk.7.attn_v` (1.00)" in part
    assert "Block with the largest mean score:" in part
    assert "7 there" in part or "7 in both runs" in part
    assert "Rank correlation of the scores: " in part
    assert "Largest changes of score:" in part
    assert "another run" not in text_of(run, tmp_path)


def test_the_same_run_twice(tmp_path: Path) -> None:
    run = make_run()
    part = text_of(run, tmp_path, other_run=save_other(tmp_path / "same", dict(run.sensitivity.scores())))
    assert "All scores are the same." in part
    assert "Rank correlation of the scores: 1.00." in part
    strangers = save_other(tmp_path / "strangers", {"x.weight": 1.0})
    assert "shares no tensor names" in text_of(run, tmp_path, other_run=strangers)
    with pytest.raises(ConfigError, match=r"has no sensitivity-\*.safetensors; give the folder of a bitclass3 run"):
        text_of(run, tmp_path, other_run=tmp_path)


def test_usage_names_the_programs_that_take_the_file(tmp_path: Path) -> None:
    run = make_run()
    run.model.metadata["tokenizer.chat_template"] = "{{ x }}"  # type: ignore[index]
    part = section(text_of(run, tmp_path, repo="me/Tiny-1B-GGUF"), "Usage")
    file = "Tiny-1B-4.80bpw.gguf"
    for line in (
        f"hf download me/Tiny-1B-GGUF {file} --local-dir .",
        f"llama-cli    -m {file} -cnv",
        f"llama-server -m {file} --port 8080",
        f"lms import {file}",
        f"FROM ./{file}",
        "ollama create tiny-1b -f Modelfile",
    ):
        assert line in part
    run.model.arch = "qwen35"  # type: ignore[misc]
    part = section(text_of(run, tmp_path), "Usage")
    assert "llama" in part
    assert "llama.cpp" in part
    assert "Ollama" not in part
    assert "hf download" not in part


def test_corpora_carry_the_hash_of_their_files(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a.txt").write_text("text")
    run = replace(make_run(), corpus=Corpus((document("a", "x"),), (document("b", "x"),), (str(tmp_path / "a.txt"), "gone.txt")))
    part = section(text_of(run, tmp_path), "Benchmark Details")
    assert f"`a.txt` (sha256 `{hashlib.sha256(b'text').hexdigest()}`), `gone.txt`." in part


def test_probed_tensors_stand_beside_their_costs(tmp_path: Path) -> None:
    run = make_run()
    ours = run.candidates[0]
    costs = {name: run.costs.costs[name][q].cost for name, q in list(ours.allocation.qtypes.items())[:6]}
    probed = replace(ours.evaluation, tensor_kld={name: 2 * cost for name, cost in costs.items()})
    run = replace(run, candidates=(replace(ours, evaluation=probed), *run.candidates[1:]))
    part = section(text_of(run, tmp_path), "Key Sensitivity Findings (Tiny-1B)")
    assert (
        f"6 tensors of `{ours.path.name}`, each put alone into the source: rank correlation of predicted and measured KLD" in part
    )
    assert "measured / predicted 2.00 in the geometric mean, scattered by a factor of 1.00." in part


def test_says_how_the_file_was_rounded(tmp_path: Path) -> None:
    run = make_run()
    path = tmp_path / "Tiny-1B-4.80bpw.gguf"
    path.write_bytes(b"GGUF")
    run = replace(run, candidates=(replace(run.ours, path=path), *run.candidates[1:]))
    assert "Error feedback" not in section(text_of(run, tmp_path), "How It Works")
    gains = {
        "a.weight": RoundingGain("Q4_K", 1.0, 0.5, "rows alone"),
        "b.weight": RoundingGain("Q4_K", 1.0, 0.7, "rows together"),
    }
    record = path.with_suffix(SUFFIX)
    save_gains(record, gains)
    part = section(text_of(run, tmp_path), "How It Works")
    assert "Error feedback rounded 2 tensors" in part
    assert "leaves 0.60 of plain rounding's part of the KL divergence" in part
    assert "tuned" not in part
    save_gains(record, gains, TuningGain(0.03, 0.02))
    assert "KLD 0.03000 before and 0.02000 after, on calibration text" in section(text_of(run, tmp_path), "How It Works")
    save_gains(record, {}, TuningGain(0.03, 0.03))
    part = section(text_of(run, tmp_path), "How It Works")
    assert "Error feedback" not in part
    assert "tuned" not in part, "the scales stayed as they were"
    record.write_text("[]")
    assert "all types are ggml's own." in section(text_of(run, tmp_path), "How It Works"), "a damaged record says nothing"

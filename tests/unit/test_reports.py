"""Model card and plots of synthetic runs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitclass3_model_card as card
import bitclass3_plots as plots
import numpy as np
import pytest
import yaml
from bitclass3_model_card.text import number, percent, plus_minus
from fake_runs import OURS, STOCK, FakeModel, make_run
from matplotlib.image import imread
from pydantic import ValidationError

from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.problem import Allocation
from bitclass3_core.results import Run
from bitclass3_core.sensitivity import Powers, TensorSensitivity

SECTIONS = [
    "Available Quantizations",
    "How It Compares",
    "Key Sensitivity Findings (Tiny-1B)",
    "How It Works",
    "Usage",
    "Benchmark Details",
    "Disclaimer",
    "License",
]


def text_of(run: Run, out: Path, **options: Any) -> str:
    (path,) = card.bitclass3_report(run, out, card.ModelCardOptions(**options))
    assert path == out / "README.md"
    return path.read_text(encoding="utf-8")


def with_candidates(run: Run, **changes: Any) -> Run:
    return replace(run, candidates=tuple(replace(candidate, **changes) for candidate in run.candidates))


def claims(text: str) -> set[str]:
    return set(re.findall(r"\b(better|lower|beats|higher|worse|best)\b", text.lower()))


# model card


def test_sections_stand_in_order(tmp_path: Path) -> None:
    assert re.findall(r"^## (.*)$", text_of(make_run(), tmp_path), re.MULTILINE) == SECTIONS


def test_plots_section_embeds_what_exists(tmp_path: Path) -> None:
    plots.bitclass3_report(make_run(), tmp_path, plots.PlotsOptions())
    text = text_of(make_run(), tmp_path)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [*SECTIONS[:5], "Plots", *SECTIONS[5:]]
    images = re.findall(r"!\[[^\]]+\]\(<(plots/[a-z_]+\.png)>\)", text)
    assert images == ["plots/size_kld.png", "plots/types.png", "plots/sensitivity.png"]
    assert all((tmp_path / image).is_file() for image in images)


def front(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    loaded = yaml.safe_load(head)
    assert isinstance(loaded, dict)
    return loaded


def test_front_matter_of_known_source(tmp_path: Path) -> None:
    metadata = {
        "general.license": "apache-2.0",
        "general.name": 'Tiny 1B: the "small" one',
        "general.base_model.0.repo_url": "https://huggingface.co/someone/Tiny-1B",
    }
    head = front(text_of(make_run(metadata=metadata), tmp_path))
    assert head == {
        "base_model": "someone/Tiny-1B",
        "base_model_relation": "quantized",
        "license": "apache-2.0",
        "library_name": "gguf",
        "quantized_by": "bitclass3",
        "tags": ["gguf", "bitclass3", "mixed-precision", "qwen35"],
    }


@pytest.mark.parametrize("value", ["no", "1.0", "a: b", 'with "quotes"', "# none", "[x]"])
def test_front_matter_survives_odd_values(tmp_path: Path, value: str) -> None:
    head = front(text_of(make_run(metadata={"general.license": "other", "general.license.name": value}), tmp_path))
    assert head["license_name"] == value


def test_front_matter_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    text = text_of(make_run(metadata={"general.name": "Tiny 1B"}), tmp_path)
    assert set(front(text)) == {"library_name", "quantized_by", "tags"}
    assert "Neither the source's metadata nor its model card name a license" in text


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"general.base_model.0.organization": "Some One", "general.base_model.0.name": "Tiny 1B"}, "Some-One/Tiny-1B"),
        ({"general.name": "someone/Tiny-1B"}, "someone/Tiny-1B"),
        (
            {"general.source.url": "https://huggingface.co/a/b", "general.base_model.0.repo_url": "https://huggingface.co/c/d"},
            "a/b",
        ),
    ],
)
def test_base_model(tmp_path: Path, metadata: dict[str, str], expected: str) -> None:
    assert front(text_of(make_run(metadata=metadata), tmp_path))["base_model"] == expected


def test_numbers_are_those_measured(tmp_path: Path) -> None:
    text = text_of(make_run(), tmp_path)
    (ours,) = [line for line in text.splitlines() if line.startswith(f"| **`{OURS}.gguf`**")]
    assert "| 4.79 | 2.90 MB | 12.346 ± 0.12 | 0.01234 ± 0.00056 |" in ours
    (source,) = [line for line in text.splitlines() if "(source)" in line]
    assert "12.100 ± 0.11" in source
    assert "predicted mean KLD 0.01020, measured 0.01234 ± 0.00056, ratio measured / predicted 1.21" in text
    assert "12,345 bytes smaller" in text
    assert "Proven optimal: no allocation within the budget costs less than 0.01010 nats per token, gap 0.02 %" in text
    assert "bitclass3 run --model Tiny-1B-BF16.gguf --target-bpw 4.8" in text
    assert "`a.jsonl`, `b.txt`" in text
    assert "somewhere" not in text
    assert Corpus.fingerprint(make_run().corpus.evaluation) in text


def test_type_table_counts_every_tensor(tmp_path: Path) -> None:
    run = make_run()
    text = text_of(run, tmp_path)
    table = text.split("### Tensor Types")[1].split("share of")[0]
    counts = [int(cell) for line in table.splitlines() if line.startswith("| `") for cell in line.split("|")[2:] if cell.strip()]
    assert sum(counts) == len(run.ours.allocation.qtypes)
    assert "All other tensors (9," in text


def test_scores_name_the_extremes_and_join_tensors_of_one_input(tmp_path: Path) -> None:
    run = make_run()
    scores = run.sensitivity.scores()
    most = max(scores, key=lambda name: scores[name]).removesuffix(".weight")
    (line,) = [line for line in text_of(run, tmp_path).splitlines() if line.startswith("- Most sensitive")]
    assert f"`{most}`" in line.split("(1.00)")[0]
    assert "Mean score by depth" in text_of(run, tmp_path)
    assert "6 of 8 blocks are recurrent" in text_of(run, tmp_path)


def test_says_lower_where_ours_is_measured_lower(tmp_path: Path) -> None:
    text = text_of(make_run(0.01, 0.02), tmp_path)
    assert "the mean KLD of ours is lower by 50.0 %, by more than twice the standard error" in text
    assert claims(text) == {"lower"}


def test_says_higher_where_ours_is_measured_higher(tmp_path: Path) -> None:
    text = text_of(make_run(0.02, 0.01), tmp_path)
    assert "the mean KLD of ours is higher by 100.0 %" in text
    assert claims(text) == {"higher"}


@pytest.mark.parametrize("ours_kld", [0.0195, 0.02, 0.0205])
def test_claims_nothing_within_twice_the_error(tmp_path: Path, ours_kld: float) -> None:
    text = text_of(make_run(ours_kld, 0.02), tmp_path)
    assert "within twice its standard error" in text
    assert claims(text) == set()


def test_compares_without_pairs_by_both_errors(tmp_path: Path) -> None:
    text = text_of(replace(make_run(0.01, 0.02), differences={}), tmp_path)
    assert "not paired" in text
    assert "-0.01000 ± 0.00079" in text


def test_unknown_error_of_the_difference_claims_nothing(tmp_path: Path) -> None:
    text = text_of(replace(make_run(0.01, 0.02), differences={STOCK: (-0.01, float("nan"))}), tmp_path)
    assert "the error of the difference is unknown" in text
    assert claims(text) == set()


def test_a_larger_file_is_called_larger(tmp_path: Path) -> None:
    run = make_run()
    larger = replace(run, candidates=(replace(run.ours, file_bytes=3_000_000), run.candidates[1]))
    assert f"87,655 bytes larger (3.0 %) than llama.cpp's stock mix `{STOCK}.gguf`" in text_of(larger, tmp_path)
    equal = replace(run, candidates=(replace(run.ours, file_bytes=2_912_345), run.candidates[1]))
    assert f"Ours and llama.cpp's stock mix `{STOCK}.gguf` have the same size." in text_of(equal, tmp_path)


def test_missing_evaluation(tmp_path: Path) -> None:
    text = text_of(with_candidates(make_run(), evaluation=None), tmp_path)
    assert "KL divergence and PPL were not measured in this run." in text
    assert f"| **`{OURS}.gguf`** | 4.79 | 2.90 MB | - | - | - | - | - | - |" in text
    assert "predicted mean KLD 0.01020, not measured" in text
    assert claims(text) == set()
    assert "nan" not in text


def test_one_candidate_without_evaluation_is_named(tmp_path: Path) -> None:
    run = make_run()
    text = text_of(replace(run, candidates=(run.ours, replace(run.candidates[1], evaluation=None))), tmp_path)
    assert f"Not measured: `{STOCK}.gguf`." in text
    assert claims(text) == set()


def test_missing_stock(tmp_path: Path) -> None:
    run = make_run()
    text = text_of(replace(run, candidates=(run.ours,)), tmp_path)
    assert "No stock mix of llama.cpp was part of this run." in text
    assert claims(text) == set()


def test_no_prediction_where_costs_are_not_in_nats(tmp_path: Path) -> None:
    run = with_candidates(make_run(), predicted_cost=None)
    bare = {name: TensorSensitivity(Powers(t.roles[0].in_power)) for name, t in run.sensitivity.tensors.items()}
    run = replace(
        run,
        costs=replace(run.costs, in_nats=False),
        sensitivity=replace(run.sensitivity, tensors=bare, estimator="hessian-diag"),
    )
    text = text_of(run, tmp_path)
    assert "redict" not in text.split("## How It Works")[0]
    assert "Cost at" not in text
    assert "costs only rank the choices" in text
    assert "backward" not in text


def test_uniform_scores_single_type_and_no_file(tmp_path: Path) -> None:
    run = make_run()
    ones = {name: TensorSensitivity(Powers(np.ones(4, np.float32))) for name in run.sensitivity.tensors}
    same = replace(run.ours, allocation=Allocation(dict.fromkeys(ones, "Q4_K"), "greedy"), path=None)
    run = replace(
        run, sensitivity=replace(run.sensitivity, tensors=ones, estimator="uniform"), candidates=(same,), costs=CostTable({})
    )
    text = text_of(run, tmp_path)
    assert "this estimator tells none apart" in text
    assert "Every role got 4.50 bpw." in text
    assert "This solver gives no proof." in text
    assert "This run wrote no GGUF." in text
    assert len(plots.bitclass3_report(run, tmp_path, plots.PlotsOptions())) == 3


def test_title_option_and_harmless_names(tmp_path: Path) -> None:
    assert "\n# My release\n" in text_of(make_run(), tmp_path, title="My release")
    assert "<script>" not in text_of(make_run(), tmp_path, title="<script>alert(1)</script>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (plus_minus(0.012345, 0.00056), "0.01235 ± 0.00056"),
        (plus_minus(1234.5, 12.3), "1,234 ± 12"),
        (plus_minus(0.5, float("nan")), "0.5000"),
        (number(0.000012345), "0.00001234"),
        (number(1.2e-9, 3), "1.20e-09"),
        (number(float("nan")), "-"),
        (number(14912345.0, 3), "14,912,345"),
        (percent(0.97125, 0.001), "97.12 % ± 0.10"),
        (percent(1.0), "100.00 %"),
    ],
)
def test_numbers_are_compact(text: str, expected: str) -> None:
    assert text == expected


# plots


def assert_good_png(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = np.asarray(imread(path))
    assert pixels.shape[1] >= 600
    assert pixels[..., :3].std() > 0.02


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_plots_are_written(tmp_path: Path) -> None:
    paths = plots.bitclass3_report(make_run(), tmp_path, plots.PlotsOptions())
    assert names(paths) == ["size_kld.png", "types.png", "sensitivity.png"]
    assert names(sorted((tmp_path / "plots").iterdir())) == sorted(names(paths))
    for path in paths:
        assert_good_png(path)


def test_plot_of_a_single_point(tmp_path: Path) -> None:
    run = make_run()
    for path in plots.bitclass3_report(replace(run, candidates=(run.ours,)), tmp_path, plots.PlotsOptions()):
        assert_good_png(path)


@pytest.mark.parametrize("kld", [0.0, 0.02])
def test_plot_of_points_without_error_or_divergence(tmp_path: Path, kld: float) -> None:
    run = make_run(stock_kld=kld)
    flat = tuple(
        replace(candidate, evaluation=replace(candidate.evaluation, se_kld=float("nan")), file_bytes=2_900_000)
        for candidate in run.candidates
        if candidate.evaluation
    )
    assert_good_png(plots.bitclass3_report(replace(run, candidates=flat), tmp_path, plots.PlotsOptions())[0])


def test_no_stale_plot_where_nothing_was_measured(tmp_path: Path) -> None:
    plots.bitclass3_report(make_run(), tmp_path, plots.PlotsOptions())
    paths = plots.bitclass3_report(with_candidates(make_run(), evaluation=None), tmp_path, plots.PlotsOptions())
    assert names(paths) == ["types.png", "sensitivity.png"]
    assert not (tmp_path / "plots/size_kld.png").exists()


def test_map_grows_with_the_model(tmp_path: Path) -> None:
    heights = {}
    for n_blocks in (8, 64):
        paths = plots.bitclass3_report(make_run(n_blocks=n_blocks), tmp_path / str(n_blocks), plots.PlotsOptions())
        heights[n_blocks] = imread(paths[1]).shape[0]
    assert heights[64] > 3 * heights[8]


def test_names_that_look_like_formulas(tmp_path: Path) -> None:
    run = make_run()
    odd = replace(run, model=FakeModel(run.model.tensors, name="a$b_{c$"))
    assert len(plots.bitclass3_report(odd, tmp_path, plots.PlotsOptions())) == 3


@pytest.mark.parametrize("options", [card.ModelCardOptions, plots.PlotsOptions])
def test_unknown_option_is_refused(options: Any) -> None:
    with pytest.raises(ValidationError):
        options(colour="red")


@pytest.mark.parametrize("plugin", [card, plots])
def test_report_is_a_hook_of_the_core(plugin: Any) -> None:
    import pluggy

    from bitclass3_core import hookspecs

    manager = pluggy.PluginManager("bitclass3")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    assert len(manager.hook.bitclass3_report.get_hookimpls()) == 1


def test_constraints_and_the_split_are_on_the_card(tmp_path):
    run = make_run()
    free = text_of(run, tmp_path)
    assert "Constraints" not in free
    assert "-ot" not in free
    asked = ("pin 'output' = Q6_K (1 tensor)", "GPU budget 24GiB for 7 tensors")
    text = text_of(replace(run, constraints=asked, config={"gpu": {"budget": "24GiB", "tensors": []}}), tmp_path)
    assert "Constraints that were asked for: `pin 'output' = Q6_K (1 tensor)`; `GPU budget 24GiB for 7 tensors`." in text
    assert f'llama-server -m {OURS}.gguf -ngl 999 -ot "$(cat {OURS}.override_tensor.txt)"' in text

"""The explorer's page in a real browser: the same allocation as the command's solver, by keyboard, on a phone, in the dark."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitclass3_explorer as explorer
import bitclass3_ilp
import bitclass3_lagrangian
import numpy as np
import pytest
from browser import chromium
from explorer_runs import NAME, make_run
from playwright.sync_api import Browser, Page, expect
from pydantic import ValidationError

from bitclass3_core.compare.comparison import Comparison
from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.recipe import recipe_lines, with_kept
from bitclass3_core.layout import file_bytes
from bitclass3_core.problem import Choice, Group, Problem, undominated
from bitclass3_core.results import Run
from bitclass3_core.sensitivity import Sensitivity

WAIT = 300_000  # milliseconds: on a busy machine a page of five megabytes takes its time
SOLVER = Path(explorer.__file__).parent / "page" / "solver.js"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()


def opened(page: Page, run: Run, out: Path, **options: Any) -> list[str]:
    """Write the run's page and open it; returns what the page asked for or complained of, which must be nothing but itself."""
    seen: list[str] = []
    page.set_default_timeout(WAIT)
    (path,) = explorer.bitclass3_report(run, out, explorer.ExplorerOptions(**options))
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    return seen


def choose(page: Page, size: str) -> None:
    page.get_by_label("Exactly").fill(size)
    page.keyboard.press("Enter")


def answer(page: Page, what: str) -> str:
    return page.locator("#answer div", has=page.get_by_text(what, exact=True)).locator("dd").inner_text()


def lagrangian(run: Run, budget: int) -> dict[str, str]:
    assert run.problem is not None
    return dict(bitclass3_lagrangian.bitclass3_solve(replace(run.problem, budget_bytes=budget)).qtypes)


def problems() -> list[Problem]:
    """Small ones with equal costs and sizes, one group that holds most bytes, and models of ordinary size at many budgets."""
    found = []
    rng = np.random.default_rng(5)
    for i in range(150):
        groups = []
        for g in range(int(rng.integers(1, 12))):
            weight = 40 if g == 0 and i % 3 == 0 else 1
            choices = [
                Choice(f"Q{k}", weight * int(rng.integers(1, 30)), float(rng.choice([0.0, 1.0, rng.uniform(0, 5)])))
                for k in range(int(rng.integers(1, 7)))
            ]
            groups.append(Group(f"g{g}", (f"t{g}",), undominated(choices)))
        smallest = Problem(tuple(groups), 0).smallest_bytes
        largest = Problem(tuple(groups), 0).largest_bytes
        found.append(Problem(tuple(groups), int(rng.integers(smallest, largest + 2))))
    for seed in range(3):
        whole = make_run(seed=seed, n_blocks=24).problem
        assert whole is not None
        found += [replace(whole, budget_bytes=int(n)) for n in np.geomspace(whole.smallest_bytes, whole.largest_bytes, 12)]
    return found


def test_solver_in_the_page_is_the_solver_lagrangian(page: Page) -> None:
    page.add_script_tag(content=f"{SOLVER.read_text()}\nwindow.solve = solve", type="module")
    for problem in problems():
        groups = [{"choices": [{"bytes": c.n_bytes, "cost": c.cost} for c in group.choices]} for group in problem.groups]
        found = page.evaluate("problem => solve(problem)", {"groups": groups, "budget": problem.budget_bytes})
        expected = bitclass3_lagrangian.bitclass3_solve(problem)
        qtypes = [group.choices[pick].qtype for group, pick in zip(problem.groups, found["picks"], strict=True)]
        assert qtypes == list(expected.qtypes.values())
        assert found["bytes"] <= problem.budget_bytes
        assert expected.proof is not None
        assert min(found["bound"], found["cost"]) == pytest.approx(expected.proof.bound, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", ["3.5bpw", "4.8bpw", "6bpw", "7MiB", "8200000"])
def test_chosen_size_gives_the_allocation_of_the_command(page: Page, tmp_path: Path, size: str) -> None:
    run = make_run()
    assert opened(page, run, tmp_path) == [(tmp_path / "explorer.html").as_uri()]
    choose(page, size)
    asked = int(page.get_by_label("Exactly").input_value())
    assert run.problem is not None
    base = file_bytes(run.model, {}) - sum(
        info.source_bytes for name, info in run.model.tensors.items() if name in run.architecture.quantizable
    )
    qtypes = lagrangian(run, asked - base)
    assert page.get_by_label("Lines of the recipe").input_value().splitlines() == recipe_lines(with_kept(run.model, qtypes))
    assert int(answer(page, "Bytes").replace(",", "")) == file_bytes(run.model, qtypes) <= asked
    best = bitclass3_ilp.bitclass3_solve(replace(run.problem, budget_bytes=asked - base), bitclass3_ilp.Options())
    cost, least = run.costs.total(qtypes), run.costs.total(best.qtypes)
    assert cost is not None
    assert least is not None
    assert float(answer(page, "Predicted KLD, nats per token")) == pytest.approx(cost, rel=1e-3)
    assert least <= cost <= 1.01 * least


def test_page_begins_at_the_size_of_the_run(page: Page, tmp_path: Path) -> None:
    run = make_run()
    opened(page, run, tmp_path)
    assert run.problem is not None
    expected = recipe_lines(with_kept(run.model, lagrangian(run, run.problem.budget_bytes)))
    assert page.get_by_label("Lines of the recipe").input_value().splitlines() == expected
    assert float(answer(page, "Bits per weight")) == pytest.approx(4.8, abs=0.01)


@pytest.mark.parametrize(
    ("size", "says"), [("lots", "not understood"), ("1bpw", "are possible"), ("20GiB", "are possible"), ("", "not understood")]
)
def test_size_that_cannot_be(page: Page, tmp_path: Path, size: str, says: str) -> None:
    opened(page, make_run(), tmp_path)
    before = page.get_by_label("Lines of the recipe").input_value()
    choose(page, size)
    assert says in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Lines of the recipe").input_value() == before


def test_keyboard_alone(page: Page, tmp_path: Path) -> None:
    opened(page, make_run(), tmp_path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the size"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="File size")
    assert slider.evaluate("element => element === document.activeElement")
    before, said = answer(page, "Bytes"), slider.get_attribute("aria-valuetext")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("before => !document.querySelector('#answer').textContent.includes(before)", arg=before)
    assert slider.get_attribute("aria-valuetext") != said
    page.wait_for_timeout(100)  # the last frame
    assert int(answer(page, "Bytes").replace(",", "")) > int(before.replace(",", ""))
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"asked", "allocation", "colour", "recipe", "copy", "save"} <= reached


def test_everything_has_a_name(page: Page, tmp_path: Path) -> None:
    opened(page, make_run(), tmp_path)
    nameless = page.evaluate("""() => [...document.querySelectorAll('input, select, textarea, button, [role=img], [role=region], table')]
        .filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()))
        .map(e => e.outerHTML)""")
    assert nameless == []
    assert "3 files" in (page.locator("#pareto").get_attribute("aria-label") or "")
    assert "83 tensors in 12 blocks" in (page.locator("#map").get_attribute("aria-label") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_in_both_modes(browser: Browser, tmp_path: Path, scheme: Any) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:
        page = context.new_page()
        opened(page, make_run(), tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        wait_for_luminance(page, "body", "backgroundColor", scheme)
        wait_for_luminance(page, "#pareto .xtick text", "fill", "light" if scheme == "dark" else "dark")
        page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        wait_for_luminance(page, "#pareto .xtick text", "fill", scheme)


def wait_for_luminance(page: Page, selector: str, colour: str, luminance: str) -> None:
    """Wait until that colour of the element is light or dark: charts are drawn again in the background."""
    page.wait_for_function(
        """([selector, colour, luminance]) => {
            const parts = getComputedStyle(document.querySelector(selector))[colour].match(/[0-9]+/g)?.map(Number)
            if (!parts) return false
            const share = (2 * parts[0] + 7 * parts[1] + parts[2]) / 2550
            return luminance === "light" ? share > 0.75 : share < 0.3
        }""",
        arg=[selector, colour, luminance],
    )


def test_map_shows_types_costs_and_scores_of_any_file(page: Page, tmp_path: Path) -> None:
    opened(page, make_run(), tmp_path)
    page.get_by_label("Types of").select_option("stock-Q4_K_M")
    values = "document.getElementById('map').data[0]"
    assert {text for row in page.evaluate(f"{values}.text") for text in row} == {"Q4_K", ""}
    assert "=q4_k" in page.get_by_label("Lines of the recipe").input_value()
    for kind in ("cost", "score"):
        page.get_by_label("Colour by").select_option(kind)
        shown = np.array(page.evaluate(f"{values}.z"), float)
        assert np.isnan(shown).sum() == 1, "one role is not in the first block"
        assert np.nanstd(shown) > 0
    rows = page.locator("#tensors tbody tr")
    assert rows.count() == 85
    assert page.locator("#files tbody tr").count() == 3


def test_copy_and_save(page: Page, tmp_path: Path) -> None:
    opened(page, make_run(), tmp_path)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copied")).not_to_be_empty()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == f"{NAME}.tensor_types.txt"
    assert download.value.path().read_text() == page.get_by_label("Lines of the recipe").input_value()


def test_two_budgets_are_left_to_the_command(page: Page, tmp_path: Path) -> None:
    run = make_run()
    assert run.problem is not None
    opened(page, replace(run, problem=replace(run.problem, gpu_budget_bytes=run.problem.budget_bytes // 2)), tmp_path)
    assert not page.locator("#solver").is_visible()
    assert "the GPU has a budget of its own" in page.locator("#about").inner_text()
    assert "=q4_k" in page.get_by_label("Lines of the recipe").input_value()


def test_hostile_names_are_text(page: Page, tmp_path: Path) -> None:
    evil = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    seen = opened(page, make_run(name=evil), tmp_path)
    assert len(seen) == 1
    assert evil in page.locator("h1").inner_text()
    assert page.evaluate("window.hacked") is None


def test_run_without_costs_shows_its_files(page: Page, tmp_path: Path) -> None:
    bare = replace(make_run(), problem=None, costs=CostTable({}), sensitivity=Sensitivity({}, "none", 0, 0, ""))
    assert len(opened(page, bare, tmp_path)) == 1
    assert not page.locator("#solver").is_visible()
    assert page.locator("#files tbody tr").count() == 3
    assert "=q4_k" in page.get_by_label("Lines of the recipe").input_value()


def comparison(run: Run, path: Path, **changes: Any) -> Path:
    theirs = replace(run.candidates[1], name="theirs-Q4_K_M", kind="compared", path=Path("theirs-Q4_K_M.gguf"), predicted_cost=None)
    reference = {"name": run.model.name, "file": "src.gguf", "fingerprint": run.model.fingerprint, "bpw": 16.0}
    values = {"reference": reference, "evaluation_sha256": Corpus.fingerprint(run.corpus.evaluation), **changes}
    Comparison(candidates=(theirs,), paired={}, **values).save(path)
    return path


def test_compared_files_stand_beside_the_runs_own(page: Page, tmp_path: Path) -> None:
    run = make_run()
    opened(page, run, tmp_path, compared=[comparison(run, tmp_path / "compare.json")])
    assert page.locator("#files tbody th").last.text_content() == "theirs-Q4_K_M"
    names = page.evaluate("document.getElementById('pareto').data.map(trace => trace.name)")
    assert names == ["predicted, any size", "bitclass3", "llama.cpp stock mix", "compared file", "chosen size, predicted"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"reference": {"file": "other.gguf", "fingerprint": "x"}},
            r"was measured against other.gguf, this run's source is Tiny-1B-BF16.gguf",
        ),
        ({"evaluation_sha256": "x"}, r"was measured on another text than this run's"),
    ],
)
def test_compared_files_of_something_else(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    run = make_run()
    path = comparison(run, tmp_path / "compare.json", **changes)
    with pytest.raises(ModelFileError, match=says):
        explorer.bitclass3_report(run, tmp_path, explorer.ExplorerOptions(compared=(path,)))
    path.write_text(json.dumps({"files": 3}))
    with pytest.raises(ModelFileError, match="is no result of bitclass3 compare"):
        explorer.bitclass3_report(run, tmp_path, explorer.ExplorerOptions(compared=(path,)))


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError):
        explorer.ExplorerOptions.model_validate({"colour": "red"})

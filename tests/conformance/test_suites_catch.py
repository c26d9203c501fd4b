"""Each test of each suite fails on a plugin made to break it, with words that say what to do; and no test is overridden in silence."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conformance.breakers import BREAKERS, HEAD, Breaker

from bitclass3_core import testing
from bitclass3_core.testing import Conformance, SolverConformance, WrapperConformance

_PERMUTED = """
    @pytest.fixture
    def hf_weights(self, model):
        return {"model.layers.0.self_attn.q_proj": model.read("blk.0.attn_q.weight")[::-1]}
"""
EVERY_SUITE = [*testing.SUITES.values(), WrapperConformance]


def _class(number: int, breaker: Breaker) -> str:
    switches = f"    {breaker.switches}\n" if breaker.switches not in ("", "PERMUTED") else ""
    extra = _PERMUTED if breaker.switches == "PERMUTED" else ""
    plugin = f'    plugin = Path(__file__).parent / "breaker_{number}.py"\n'
    return f"class TestBreaker{number}({breaker.suite}Conformance):\n{plugin}{switches}{extra}\n"


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], str]:
    """What pytest says of each (breaker, test), all run by one pytest in a process of its own; empty where the test passed."""
    folder: Path = tmp_path_factory.mktemp("breakers")
    names = ", ".join(sorted({f"{breaker.suite}Conformance" for breaker in BREAKERS}))
    classes = []
    for number, breaker in enumerate(BREAKERS):
        (folder / f"breaker_{number}.py").write_text(HEAD + breaker.source)
        classes.append(_class(number, breaker))
    head = f"from pathlib import Path\nimport pytest\nfrom bitclass3_core.testing import {names}\n\n"
    (folder / "test_breakers.py").write_text(head + "\n".join(classes))
    wanted = [f"test_breakers.py::TestBreaker{number}::{breaker.test}" for number, breaker in enumerate(BREAKERS)]
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=found.xml", "--rootdir=.", *wanted]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTEST_ADDOPTS": ""})
    assert (folder / "found.xml").is_file(), done.stdout + done.stderr
    found: dict[tuple[int, str], str] = {}
    for case in ET.parse(folder / "found.xml").iter("testcase"):
        number = int(case.get("classname", "").rpartition("TestBreaker")[2])
        said = "".join((part.get("message", "") + (part.text or "")) for part in case if part.tag == "failure")
        key = (number, case.get("name", "").partition("[")[0])
        found[key] = found.get(key, "") + said
    return found


@pytest.mark.parametrize("number", range(len(BREAKERS)), ids=[f"{b.suite}-{b.test}-{b.says[:24]}" for b in BREAKERS])
def test_breaker_is_caught_with_words(failures: dict[tuple[int, str], str], number: int) -> None:
    breaker = BREAKERS[number]
    said = failures[number, breaker.test]
    assert said, f"{breaker.test} passed a plugin that breaks it"
    assert any(part in said for part in breaker.says.split("|")), said


@pytest.mark.parametrize("suite", EVERY_SUITE, ids=lambda suite: suite.__name__)
def test_every_promise_has_a_breaker(suite: type[Conformance]) -> None:
    name = suite.__name__.removesuffix("Conformance")
    caught = {breaker.test for breaker in BREAKERS if breaker.suite == name}
    common = {test for test in vars(Conformance) if test.startswith("test_")}  # caught once, for all
    assert {test for test in vars(suite) if test.startswith("test_")} - common <= caught
    assert common <= {breaker.test for breaker in BREAKERS if breaker.suite == "Solver"}


@pytest.mark.parametrize("suite", EVERY_SUITE, ids=lambda suite: suite.__name__)
def test_every_promise_says_why(suite: type[Conformance]) -> None:
    for name in dir(suite):
        if name.startswith("test_"):
            assert getattr(suite, name).__doc__, f"{suite.__name__}.{name}"


def test_overriding_a_test_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Mine overrides test_same_answer_twice, a promise .* @pytest.mark.xfail\(reason='...'\)"):

        class Mine(SolverConformance):
            def test_same_answer_twice(self) -> None: ...


def test_switching_a_test_off_is_refused() -> None:
    with pytest.raises(TypeError, match="overrides test_same_answer_twice"):

        class Mine(SolverConformance):
            test_same_answer_twice = None


def test_overriding_with_a_reason_is_allowed() -> None:
    class Mine(SolverConformance):
        @pytest.mark.xfail(reason="draws lots")
        def test_same_answer_twice(self) -> None:
            super().test_same_answer_twice()

    assert Mine.test_same_answer_twice is not SolverConformance.test_same_answer_twice


def test_xfail_without_a_reason_is_refused() -> None:
    with pytest.raises(TypeError, match="overrides test_same_answer_twice"):

        class Mine(SolverConformance):
            @pytest.mark.xfail
            def test_same_answer_twice(self) -> None: ...


def test_grandchildren_may_not_override_either() -> None:
    class Mine(SolverConformance):
        exact = True

    with pytest.raises(TypeError, match="Theirs overrides test_same_answer_twice"):

        class Theirs(Mine):
            def test_same_answer_twice(self) -> None: ...


def test_misspelt_switch_is_refused() -> None:
    with pytest.raises(TypeError, match="Mine sets exakt, which is no switch of its suite; did you mean 'exact'"):

        class Mine(SolverConformance):
            exakt = True


def test_helpers_of_the_suite_may_not_be_replaced() -> None:
    with pytest.raises(
        TypeError, match="Mine overrides solve, which the suite's tests stand on; switches are exact, options, plugin"
    ):

        class Mine(SolverConformance):
            def solve(self, problem: object, model: object) -> None: ...


def test_tests_and_helpers_of_ones_own_are_welcome() -> None:
    class Mine(SolverConformance):
        _limit = 3

        def helper(self) -> int:
            return self._limit

        def test_more(self) -> None: ...

    assert Mine().helper() == 3

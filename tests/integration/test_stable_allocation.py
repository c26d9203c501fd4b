"""The same allocation whatever the number of threads, and every time with the same seed."""

import json
from pathlib import Path

import pytest
from command import run

pytestmark = pytest.mark.slow


def allocation(out: Path, *more: object) -> tuple[dict[str, str], float]:
    """Types of every tensor, and what they are predicted to cost, of a run of the example until its solution."""
    done = run(out, "--target-bpw", 4.5, "--until", "solve", "--json", *more)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    return answer["allocation"], answer["predicted_cost"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """With one thread and the seed 0."""
    return allocation(tmp_path_factory.mktemp("one"), "--threads", 1, "--set", "estimate.options.seed=0")


def test_threads_and_repetitions_change_nothing(one: tuple[dict[str, str], float], tmp_path: Path) -> None:
    assert allocation(tmp_path / "two", "--threads", 2) == one
    assert allocation(tmp_path / "again", "--threads", 2) == one


def test_another_seed_draws_other_labels(one: tuple[dict[str, str], float], tmp_path: Path) -> None:
    other = allocation(tmp_path, "--set", "estimate.options.seed=1")
    assert other[1] != one[1]
    assert other[1] == pytest.approx(one[1], rel=0.1)
    same = sum(other[0][name] == q for name, q in one[0].items())
    assert same > 0.8 * len(one[0])

"""Every built-in plugin answers as it did under the BITCLASS3_ANSWERS that it declares: what was measured with it still counts."""

import json
import sys

import answers
import pytest

from bitclass3_core.plugin.manager import installed

KEPT = json.loads(answers.FILE.read_text(encoding="utf-8"))
SCRIPTED = {"imatrix", "llama-quantize", "llama-perplexity", "llama-completion"}


def test_every_built_in_plugin_is_held() -> None:
    ours = {name for name, point in installed().items() if point.dist and point.dist.name == "bitclass3"}
    assert set(KEPT) == set(answers.QUESTIONS) == ours - answers.FOR_PEOPLE


@pytest.mark.parametrize("plugin", sorted(KEPT))
def test_answers_are_those_of_the_version(plugin: str) -> None:
    if plugin in SCRIPTED and sys.platform == "win32":
        pytest.skip("the program is a script with a shebang")
    found = answers.changed(plugin, KEPT[plugin])
    assert not found, (
        f"answers of plugin {plugin} changed: change its BITCLASS3_ANSWERS and write tests/data/answers.json again with "
        f"`python tests/answers.py` ({found})"
    )


@pytest.mark.parametrize(
    ("answer", "kept", "found"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.0001]}, ""),
        ({"a": [1, 2.0]}, {"a": [1, 2.001]}, "/a[1] is 2.0, was 2.001"),
        ({"a": 1000000}, {"a": 1000001}, "/a is 1000000, was 1000001"),
        ({"a": "x"}, {"a": "y"}, "/a is x, was y"),
        ([1.0], [1.0, 2.0], " is [1.0], was [1.0, 2.0]"),
        ({"a": 1}, {"b": 1}, " is {'a': 1}, was {'b': 1}"),
    ],
)
def test_difference_is_seen(answer: object, kept: object, found: str) -> None:
    assert answers.difference(answer, kept, 1e-4) == found


def test_another_version_or_answer_is_a_change() -> None:
    kept = KEPT["greedy"]
    assert answers.changed("greedy", {**kept, "version": "0"}) == f"BITCLASS3_ANSWERS is {kept['version']}, was 0"
    assert answers.changed("greedy", {**kept, "answer": {**kept["answer"], "allocation": "0"}}).startswith("/allocation is ")

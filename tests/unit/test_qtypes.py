"""Names, sizes and menus of ggml's types."""

import pytest

from bitclass3_core.errors import ConfigError
from bitclass3_core.qtypes import MENUS, WRITABLE_QTYPES, menu, qtype


@pytest.mark.parametrize("name", ["Q4_K", "q4_k", "q4_K"])
def test_names_in_any_case(name):
    found = qtype(name)
    assert (found.name, found.block_size, found.type_size, found.bpw, found.is_float) == ("Q4_K", 256, 144, 4.5, False)


def test_floats_are_floats():
    assert [(q.name, q.bpw, q.is_float) for q in map(qtype, ("f32", "f16", "bf16"))] == [
        ("F32", 32, True),
        ("F16", 16, True),
        ("BF16", 16, True),
    ]


def test_unknown_type_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"unknown qtype 'Q4K'; did you mean 'Q4_K'\? known: BF16, F16, F32, IQ1_M"):
        qtype("Q4K")


def test_unknown_type_that_is_like_none():
    with pytest.raises(ConfigError, match=r"unknown qtype 'zzzz'; known: BF16"):
        qtype("zzzz")


@pytest.mark.parametrize("name", MENUS)
def test_menus_rise_in_size_and_can_be_written(name):
    found = menu(name)
    assert [q.bpw for q in found] == sorted(q.bpw for q in found)
    assert {q.name for q in found} == set(MENUS[name])
    assert {q.name for q in found} <= set(WRITABLE_QTYPES)


def test_list_of_names_without_doubles():
    assert [q.name for q in menu(["q6_k", "Q4_K", "Q6_K", "BF16"])] == ["Q4_K", "Q6_K", "BF16"]


def test_unknown_menu():
    with pytest.raises(
        ConfigError, match=r"unknown menu 'defualt'; did you mean 'default'\? known: all, cpu, cuda, default, k, metal, vulkan"
    ):
        menu("defualt")


def test_type_that_cannot_be_written():
    with pytest.raises(ConfigError, match="qtype 'Q8_K' cannot be written; did you mean 'Q"):
        menu(["Q4_K", "Q8_K"])


def test_empty_menu():
    with pytest.raises(ConfigError, match="the menu of qtypes is empty; name at least one"):
        menu([])

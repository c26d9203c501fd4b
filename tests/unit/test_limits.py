"""Constraints: each rule by itself, put together, what contradicts, and which one binds."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from gguf_files import matrices, memory_model

from bitclass3_core.constraints.gpu import gpu_of
from bitclass3_core.constraints.limits import limits_of
from bitclass3_core.constraints.problem import build_problem, check_target, possible_bytes
from bitclass3_core.constraints.rules import rules_of
from bitclass3_core.constraints.wanted import wanted_cells
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ConfigError, ContractError, InfeasibleError
from bitclass3_core.layout import Budget
from bitclass3_core.plugin.checks import check_kept
from bitclass3_core.problem import Allocation
from bitclass3_core.qtypes import menu

Q, K, V = (f"blk.0.attn_{x}.weight" for x in "qkv")
UP, GATE, DOWN, EXPERTS = "blk.0.ffn_up.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_down.weight", "blk.1.ffn_up_exps.weight"
MODEL = memory_model(
    blk__0__attn_q=(64, 256),
    blk__0__attn_k=(32, 256),
    blk__0__attn_v=(32, 256),
    blk__0__ffn_up=(64, 256),
    blk__0__ffn_gate=(64, 256),
    blk__0__ffn_down=(256, 96),  # rows that hold no K type
    blk__1__ffn_up_exps=(4, 64, 256),
    output_norm=(256,),
)
ARCH = matrices(MODEL)
MENU = menu(["Q3_K", "Q4_K", "Q6_K", "Q5_0", "Q8_0"])


def limits(gpu=None, **rules):
    return limits_of(MODEL, rules_of(MODEL, ARCH, **rules), gpu)


def types(found, name, qtypes=MENU):
    """The types that a tensor may get, as the problem has them before any is dominated."""
    cells = wanted_cells(MODEL, ARCH.quantizable, qtypes, found)
    costs = {n: {q.name: Cost(1 / q.bpw, 0.0, 1) for q in qs} | {"BF16": Cost(0.0, 0.0, 0)} for n, qs in cells.items()}
    problem = build_problem(MODEL, ARCH, CostTable(costs), found, Budget(MODEL_BYTES, "x"))
    return [choice.qtype for choice in next(group for group in problem.groups if name in group.tensors).choices]


MODEL_BYTES = sum(info.source_bytes for info in MODEL.tensors.values())


def test_without_rules_every_tensor_is_alone_with_the_whole_menu():
    assert limits().partition(ARCH.quantizable) == [(name,) for name in sorted(ARCH.quantizable)]
    assert types(limits(), Q) == ["Q3_K", "Q4_K", "Q5_0", "Q6_K", "Q8_0", "BF16"]
    assert types(limits(), DOWN) == ["Q5_0", "Q8_0", "BF16"]
    assert limits().described() == []


def test_pins_floors_and_menus():
    found = limits(pins={"attn_q": "q6_k"}, floors={"attn_[kv]": "Q5_0"}, menus={r"ffn_(up|gate)\.": ["Q4_K", "Q8_0"]})
    assert types(found, Q) == ["Q6_K"]
    assert types(found, K) == types(found, V) == ["Q5_0", "Q6_K", "Q8_0", "BF16"]
    assert types(found, UP) == ["Q4_K", "Q8_0", "BF16"]
    assert types(found, EXPERTS) == types(limits(), EXPERTS)
    assert found.described() == [
        "pin 'attn_q' = Q6_K (1 tensor)",
        "floor 'attn_[kv]' = at least Q5_0 (2 tensors)",
        r"menu 'ffn_(up|gate)\\.' = Q4_K, Q8_0 (2 tensors)",
    ]


def test_a_pin_and_a_floor_are_measured_whatever_the_menu():
    found = limits(pins={"attn_q": "IQ4_NL"}, floors={"attn_k": "Q8_0"})
    few = menu(["Q4_K"])
    assert types(found, Q, few) == ["IQ4_NL"]
    assert types(found, K, few) == ["Q8_0", "BF16"]
    assert types(found, V, few) == ["Q4_K", "BF16"]


def test_the_highest_floor_and_the_types_on_every_menu_count():
    found = limits(floors={"attn": "Q4_K", "attn_q": "Q6_K"}, menus={"ffn": "k", "ffn_up": ["Q4_K", "Q5_1", "Q8_0"]})
    assert types(found, Q)[0] == "Q6_K"
    assert types(found, K)[0] == "Q4_K"
    assert [q.name for q in found.menus[UP]] == ["Q4_K", "Q8_0"]


@pytest.mark.parametrize("group", ["qkv", r"blk\.(\d+)\.attn_[qkv]", r"blk\.(\d+)\.attn_"])
def test_groups_share_a_type_and_what_it_costs(group):
    found = limits(groups=[group])
    assert found.groups == ((K, Q, V),)
    cells = wanted_cells(MODEL, ARCH.quantizable, MENU, found)
    table = CostTable(
        {n: {q.name: Cost(len(n) / q.bpw, 0.0, 1) for q in qs} | {"BF16": Cost(0.0, 0.0, 0)} for n, qs in cells.items()}
    )
    problem = build_problem(MODEL, ARCH, table, found, Budget(MODEL_BYTES, "x"))
    (shared,) = [group for group in problem.groups if len(group.tensors) > 1]
    assert shared.tensors == (K, Q, V)
    q4 = next(choice for choice in shared.choices if choice.qtype == "Q4_K")
    assert q4.n_bytes == (64 + 32 + 32) * 144
    assert q4.cost == pytest.approx(3 * len(Q) / 4.5)


def test_groups_by_capture_by_name_and_of_all_that_matches():
    assert limits(groups=["gate_up"]).groups == ((GATE, UP),)
    assert limits(groups=["attn|ffn_up"]).groups == ((K, Q, V, UP, EXPERTS),)


def test_groups_with_a_tensor_in_common_are_one():
    assert limits(groups=["attn_[qk]", "attn_[kv]"]).groups == ((K, Q, V),)


def test_a_pin_or_floor_of_one_is_that_of_all_that_share_its_type():
    assert limits(pins={"attn_q": "Q4_K"}, groups=["qkv"]).pins == {Q: "Q4_K", K: "Q4_K", V: "Q4_K"}
    assert types(limits(floors={"attn_v": "Q6_K"}, groups=["qkv"]), Q)[0] == "Q6_K"


def test_a_group_has_only_the_types_that_all_can_have():
    assert types(limits(groups=["ffn_up.weight|ffn_down"]), UP) == ["Q5_0", "Q8_0", "BF16"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"pins": {"blk.(": "Q4_K"}}, r"pin 'blk\.\(' is no regular expression \(.*\); escape dots as"),
        ({"floors": {"blk.(": "Q4_K"}}, r"floor 'blk\.\(' is no regular expression"),
        ({"groups": ["blk.("]}, r"group 'blk\.\(' is no regular expression"),
        ({"pins": {"attn_q": "Q4K"}}, "unknown qtype 'Q4K'; did you mean 'Q4_K'"),
        ({"floors": {"attn_q": "Q4K"}}, "unknown qtype 'Q4K'; did you mean 'Q4_K'"),
        ({"pins": {"attn_q": "Q8_K"}}, "qtype 'Q8_K' cannot be written"),
        ({"menus": {"attn_q": "gpu"}}, "unknown menu 'gpu'; did you mean 'cpu'"),
        ({"pins": {"attn_z": "Q4_K"}}, "pin 'attn_z' matches none of the 7 quantizable tensors; look at them with bitclass3 plan"),
        ({"pins": {"output_norm": "Q8_0"}}, "pin 'output_norm' matches none of the 7 quantizable tensors"),
        ({"floors": {"attn_z": "Q4_K"}}, "floor 'attn_z' matches none of the 7"),
        ({"menus": {"attn_z": "k"}}, "menu 'attn_z' matches none of the 7"),
        ({"groups": ["attn_z"]}, "group 'attn_z' matches no two of the 7 quantizable tensors that would share a type"),
        ({"groups": [r"(attn_[qkv])"]}, r"group '\(attn_\[qkv\]\)' matches no two"),
        ({"pins": {"ffn_down": "Q4_K"}}, rf"pin 'ffn_down': Q4_K does not fit the rows of {DOWN} \(96 is no multiple of 256\)"),
        ({"menus": {"ffn": ["Q4_K", "Q6_K"]}}, rf"menu 'ffn': none of Q4_K, Q6_K fits the rows of {DOWN} \(96 weights\)"),
        (
            {"pins": {"attn_q": "Q4_K", "attn": "Q6_K"}},
            f"pin 'attn_q' = Q4_K and pin 'attn' = Q6_K contradict each other for {Q}; make",
        ),
        (
            {"pins": {"attn_q": "Q4_K", "attn_k": "Q6_K"}, "groups": ["qkv"]},
            rf"pin 'attn_q' = Q4_K and pin 'attn_k' = Q6_K contradict each other for {K} \(a group makes it share a type\)",
        ),
        (
            {"pins": {"ffn_up.weight": "Q4_K"}, "groups": ["ffn_up.weight|ffn_down"]},
            rf"pin 'ffn_up.weight' = Q4_K for {UP}, which shares its type: Q4_K does not fit the rows of {DOWN}",
        ),
        (
            {"pins": {"attn_q": "Q4_K"}, "floors": {"attn": "Q6_K"}},
            f"pin 'attn_q' = Q4_K and floor 'attn' = at least Q6_K contradict each other for {Q}",
        ),
        (
            {"pins": {"attn_q": "Q4_K"}, "floors": {"attn_v": "Q6_K"}, "groups": ["qkv"]},
            "pin 'attn_q' = Q4_K and floor 'attn_v' = at least Q6_K contradict each other",
        ),
        (
            {"menus": {"attn": ["Q3_K", "Q4_K"]}, "floors": {"attn_v": "Q6_K"}},
            rf"floor 'attn_v' = at least Q6_K leaves {V} no type of its menu \(Q3_K, Q4_K\)",
        ),
        (
            {"menus": {"attn": ["Q3_K"], "attn_q": ["Q4_K"]}},
            f"menu 'attn_q' = Q4_K and another menu have no type in common for {Q}",
        ),
    ],
)
def test_bad_and_contradictory_rules(rules, message):
    with pytest.raises(ConfigError, match=message):
        limits(**rules)


def test_the_same_pin_twice_is_no_contradiction():
    assert limits(pins={"attn_q": "Q4_K", r"attn_[qk]": "Q4_K"}).pins == {Q: "Q4_K", K: "Q4_K"}


def test_a_group_without_a_type_in_common():
    rules = {"menus": {"attn_q": ["Q3_K"], "attn_k": ["Q4_K"]}, "groups": ["attn_[qk]"]}
    assert types(limits(**rules), Q) == ["BF16"]  # the source's own type is always possible
    infos = {n: replace(info, dtype="F16" if n == Q else info.dtype) for n, info in MODEL.tensors.items()}
    mixed = SimpleNamespace(tensors=infos)
    with pytest.raises(InfeasibleError, match=rf"{K}, {Q} share a type, and no type is possible for all of them; loosen the group"):
        possible_bytes(mixed, ARCH, MENU, limits_of(mixed, rules_of(mixed, ARCH, **rules)))


def target(n_bytes, **rules):
    check_target(MODEL, ARCH, MENU, limits(**rules), Budget(n_bytes, "x"))


def smallest(**rules):
    return possible_bytes(MODEL, ARCH, MENU, limits(**rules)).smallest


def test_an_infeasible_budget_names_the_rule_that_binds():
    free, pinned = smallest(), smallest(pins={"exps": "Q8_0"})
    rules = {"pins": {"exps": "Q8_0"}, "floors": {"attn_q": "Q4_K"}}
    with pytest.raises(InfeasibleError) as error:
        target(pinned - 100, **rules)
    without = smallest(floors={"attn_q": "Q4_K"})
    assert (
        f"budget is {pinned - 100:,} bytes, smallest possible is {smallest(**rules):,}; what binds: pin 'exps' = Q8_0 (without it {without:,});"
        in str(error.value)
    )
    target(pinned, pins={"exps": "Q8_0"})
    target(free)


def test_an_infeasible_budget_where_no_single_rule_binds():
    free = smallest()
    rules = {"pins": {"exps": "Q8_0"}, "floors": {"attn": "Q8_0"}}
    with pytest.raises(InfeasibleError) as error:
        target(free + 10, **rules)
    message = str(error.value)
    assert f"pin 'exps' = Q8_0 ({smallest(**rules) - smallest(floors={'attn': 'Q8_0'}):,} bytes)" in message
    assert f"floor 'attn' = at least Q8_0 ({smallest(**rules) - smallest(pins={'exps': 'Q8_0'}):,} bytes)" in message
    assert f"no single one does, without all constraints it is {free:,}" in message
    with pytest.raises(InfeasibleError, match=f"without all constraints {free:,}; raise the target"):
        target(free - 1, **rules)


def test_rules_that_do_not_matter_are_not_blamed():
    free = smallest()
    with pytest.raises(InfeasibleError) as error:
        target(free - 1, pins={"attn_q": "Q3_K"})
    assert "binds" not in str(error.value)


def test_groups_can_bind():
    grouped = smallest(groups=["ffn_up.weight|ffn_down"])
    assert grouped > smallest()
    with pytest.raises(InfeasibleError, match=r"what binds: group 'ffn_up\.weight\|ffn_down' \(without it"):
        target(grouped - 1, groups=["ffn_up.weight|ffn_down"])


def test_a_gpu_budget_that_is_too_small_names_what_binds():
    gpu = gpu_of(MODEL, 40_000, ["attn", "norm"])
    found = limits(gpu, pins={"attn_q": "Q8_0"})
    check_target(MODEL, ARCH, MENU, found, Budget(MODEL_BYTES, "x"))
    small = gpu_of(MODEL, 20_000, ["attn", "norm"])
    with pytest.raises(InfeasibleError) as error:
        check_target(MODEL, ARCH, MENU, limits(small, pins={"attn_q": "Q8_0"}), Budget(MODEL_BYTES, "x"))
    # 64 rows at Q8_0, 32 and 32 at Q3_K, and the norm as it is
    assert "budget of the GPU is 20,000 bytes, its 4 tensors take at least 24,960" in str(error.value)
    assert "what binds: pin 'attn_q' = Q8_0 (without it 14,592)" in str(error.value)


ANSWER = dict.fromkeys(ARCH.quantizable, "Q8_0")


@pytest.mark.parametrize(
    ("rules", "changes", "message"),
    [
        ({"pins": {"attn_q": "Q4_K"}}, {}, "gave blk.0.attn_q.weight Q8_0, but it is pinned to Q4_K"),
        ({"floors": {"attn_q": "Q8_0"}}, {Q: "Q4_K"}, "gave blk.0.attn_q.weight Q4_K, but its floor is Q8_0"),
        ({"groups": ["qkv"]}, {Q: "Q4_K"}, "gave different types to .*, which share one"),
    ],
)
def test_a_solver_that_breaks_a_limit(rules, changes, message):
    with pytest.raises(ContractError, match=message):
        check_kept(Allocation({**ANSWER, **changes}), MODEL, 0, 0, limits(**rules), "mine")


def test_a_solver_that_knows_of_no_second_budget():
    found = limits(gpu_of(MODEL, 20_000, ["attn"]))
    with pytest.raises(ContractError, match=r"answered 34,816 bytes on the GPU, its budget is 20,000; name another solver"):
        check_kept(Allocation(ANSWER), MODEL, 0, 0, found, "mine")


def test_a_pin_need_not_be_on_the_menu():
    found = limits(pins={"attn_q": "Q6_K"}, menus={"attn_": ["Q4_K", "Q8_0"]})
    kept = dict.fromkeys(ARCH.quantizable, "Q4_K") | {Q: "Q6_K"}
    assert found.broken_by(MODEL, kept) == ""
    assert found.broken_by(MODEL, kept | {K: "BF16"}) == "", "the source's own type is on every menu"
    assert found.broken_by(MODEL, kept | {K: "Q3_K"}) == f"gave {K} Q3_K, which is not on its menu"
    assert found.broken_by(MODEL, kept | {Q: "Q8_0"}) == f"gave {Q} Q8_0, but it is pinned to Q6_K"


def test_a_floor_need_not_be_on_the_menu():
    found = limits(floors={"attn_q": "Q5_0"}, menus={"attn_": ["Q4_K", "Q8_0"]})
    kept = dict.fromkeys(ARCH.quantizable, "Q4_K") | {Q: "Q5_0"}
    assert found.broken_by(MODEL, kept) == ""
    assert found.broken_by(MODEL, kept | {Q: "Q4_K"}) == f"gave {Q} Q4_K, but its floor is Q5_0"
    assert found.broken_by(MODEL, kept | {Q: "Q6_K"}) == f"gave {Q} Q6_K, which is not on its menu"

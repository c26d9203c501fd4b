"""Each rule of the stock mixes by hand: what raises a tensor above its mix, and what happens to rows that do not fit."""

import pytest
from bitclass3_stock import STOCK_FTYPES, stock_qtypes
from stock_models import llama, qwen35

from bitclass3_core.model import TensorInfo
from bitclass3_core.qtypes import qtype


def of_role(qtypes: dict[str, str], role: str, n_layers: int) -> list[str]:
    return [qtypes[f"blk.{block}.{role}.weight"] for block in range(n_layers)]


def blocks_at(qtypes: dict[str, str], role: str, q: str) -> list[int]:
    return sorted(int(name.split(".")[1]) for name, given in qtypes.items() if given == q and name.endswith(f".{role}.weight"))


def test_only_quantizable_tensors_are_answered_and_all_are_counted():
    model = llama(8)
    some = frozenset({"blk.6.attn_v.weight", "blk.5.attn_v.weight"})
    assert stock_qtypes(model, some, "Q4_K_M") == {"blk.5.attn_v.weight": "Q4_K", "blk.6.attn_v.weight": "Q6_K"}


@pytest.mark.parametrize("ftype", STOCK_FTYPES)
def test_rows_that_are_no_multiple_of_256_get_blocks_of_32(ftype: str):
    model = llama(4, width=576, ffn=1504, heads=(9, 3))
    assert {qtype(q).block_size for q in stock_qtypes(model, model.names, ftype).values()} == {32}


def test_fallback_types():
    model = llama(8, width=576, ffn=1536, heads=(9, 3))
    q4, q3, iq = (stock_qtypes(model, model.names, ftype) for ftype in ("Q4_K_M", "Q3_K_S", "IQ3_XXS"))
    assert q4["output.weight"] == "Q8_0"
    assert (q4["token_embd.weight"], q4["blk.1.attn_q.weight"], q4["blk.0.attn_v.weight"]) == ("Q5_0", "Q5_0", "Q8_0")
    assert (q4["blk.1.ffn_down.weight"], q4["blk.0.ffn_down.weight"]) == ("Q4_K", "Q6_K")  # 1536 is 6 x 256
    assert (q3["blk.0.attn_q.weight"], iq["blk.0.attn_q.weight"]) == ("Q4_0", "IQ4_NL")
    assert stock_qtypes(model, model.names, "Q5_K_S")["blk.0.ffn_up.weight"] == "Q5_1"


def test_rows_that_hold_no_block_get_f16():
    model = llama(1, width=48, ffn=64, heads=(3, 3))
    assert stock_qtypes(model, model.names, "Q4_0")["blk.0.attn_q.weight"] == "F16"


def test_tied_embedding_is_treated_as_the_head():
    tied, untied = llama(4, tied=True), llama(4)
    assert stock_qtypes(tied, tied.names, "Q4_K_M")["token_embd.weight"] == "Q6_K"
    assert stock_qtypes(untied, untied.names, "Q4_K_M")["token_embd.weight"] == "Q4_K"
    assert stock_qtypes(tied, tied.names, "IQ2_M")["token_embd.weight"] == "Q5_K"
    assert stock_qtypes(untied, untied.names, "IQ2_M")["token_embd.weight"] == "IQ3_S"
    assert stock_qtypes(tied, tied.names, "Q8_0")["token_embd.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("ftype", "three", "four"),
    [
        ("Q2_K", "Q3_K", "Q4_K"),
        ("Q2_K_S", "Q2_K", "Q4_K"),
        ("IQ1_S", "Q2_K", "Q4_K"),
        ("IQ2_M", "IQ3_S", "Q4_K"),
        ("IQ3_XXS", "IQ3_XXS", "Q4_K"),
        ("IQ4_XS", "IQ4_XS", "Q5_K"),
    ],
)
def test_values_that_four_query_heads_share_get_more(ftype: str, three: str, four: str):
    for heads, expected in (((12, 4), three), ((12, 3), four)):
        model = llama(16, heads=heads)
        assert of_role(stock_qtypes(model, model.names, ftype), "attn_v", 16) == [expected] * 16


def test_head_counts_in_a_list_are_those_of_the_first_layer():
    model = llama(2)
    model.metadata["llama.attention.head_count_kv"] = [3, 12]
    assert of_role(stock_qtypes(model, model.names, "IQ4_XS"), "attn_v", 2) == ["Q5_K", "Q5_K"]
    model.metadata["llama.attention.head_count_kv"] = [0, 3]
    assert of_role(stock_qtypes(model, model.names, "IQ4_XS"), "attn_v", 2) == ["IQ4_XS", "IQ4_XS"]


def test_imatrix_changes_what_is_guarded():
    model = llama(16)
    guided, unguided = (stock_qtypes(model, model.names, "Q4_0", has_imatrix=has) for has in (True, False))
    assert blocks_at(guided, "ffn_down", "Q4_1") == [0, 1]
    assert blocks_at(unguided, "ffn_down", "Q4_1") == []
    blind = stock_qtypes(model, model.names, "IQ3_XXS", has_imatrix=False)
    assert (blocks_at(blind, "ffn_down", "Q4_K"), blocks_at(blind, "ffn_down", "Q3_K")) == ([0, 1], list(range(2, 16)))
    assert blocks_at(stock_qtypes(model, model.names, "IQ4_XS", has_imatrix=False), "ffn_down", "Q5_K") == [0, 1]


def test_iq3_xs_saves_in_the_middle():
    model = llama(16)
    qtypes = stock_qtypes(model, model.names, "IQ3_XS")
    assert blocks_at(qtypes, "ffn_up", "IQ3_XXS") == blocks_at(qtypes, "ffn_gate", "IQ3_XXS") == list(range(2, 14))
    assert (qtypes["blk.0.attn_q.weight"], qtypes["blk.0.attn_v.weight"], qtypes["output.weight"]) == ("IQ3_XXS", "IQ3_S", "Q6_K")


def test_eight_experts():
    model = llama(16, experts=8)
    q4, q3, iq2 = (stock_qtypes(model, model.names, ftype) for ftype in ("Q4_K_M", "Q3_K_L", "IQ2_XS"))
    assert [q4[f"blk.3.{role}.weight"] for role in ("attn_q", "attn_k", "attn_v", "attn_output")] == [
        "Q4_K",
        "Q8_0",
        "Q8_0",
        "Q5_K",
    ]
    assert blocks_at(q4, "ffn_down_exps", "Q6_K") == [0, 1, 4, 7, 10, 13, 14, 15]
    assert q3["blk.0.attn_output.weight"] == "Q3_K"
    assert [iq2[f"blk.3.{role}.weight"] for role in ("attn_q", "attn_k", "attn_v", "attn_output")] == [
        "IQ2_XS",
        "Q4_K",
        "Q4_K",
        "Q5_K",
    ]


def test_layer_of_an_expert_is_read_from_its_name():
    """Routed and shared experts make two ffn_down a layer: counting tensors would run past the last layer."""
    model = llama(16, experts=64)
    shared = {f"blk.{block}.ffn_down_shexp.weight": (768, 1536) for block in range(16)}
    model.tensors.update({name: TensorInfo(name, shape, "F16") for name, shape in shared.items()})
    qtypes = stock_qtypes(model, model.names, "Q4_K_M")
    assert blocks_at(qtypes, "ffn_down_exps", "Q6_K") == blocks_at(qtypes, "ffn_down_shexp", "Q6_K") == [0, 1, 4, 7, 10, 13, 14, 15]


def test_70b_has_better_values():
    narrow = {"width": 256, "ffn": 256}
    large, large_full, small = (
        llama(80, heads=(8, 1), **narrow),
        llama(80, heads=(8, 8), **narrow),
        llama(79, heads=(8, 1), **narrow),
    )
    assert [stock_qtypes(model, model.names, "Q2_K")["blk.9.attn_v.weight"] for model in (large, large_full, small)] == [
        "Q5_K",
        "Q3_K",
        "Q4_K",
    ]
    assert stock_qtypes(large, large.names, "IQ2_M")["blk.9.attn_v.weight"] == "Q4_K"


def test_qwen35_counts_the_fused_qkv_among_the_values():
    """8 layers, so 8 tensors that count as attn_v. More bits: the first eighth (0), the last (7), and 3 and 6 between.

    Layers 3 and 7 have full attention (attn_v), 0 and 6 linear attention (attn_qkv).
    """
    model = qwen35()
    qtypes = stock_qtypes(model, model.names, "Q4_K_M")
    raised = {name for name, q in qtypes.items() if q == "Q6_K"}
    assert raised == {
        "output.weight",
        *(f"blk.{block}.ffn_down.weight" for block in (0, 3, 6, 7)),
        *(f"blk.{block}.attn_qkv.weight" for block in (0, 6)),
        *(f"blk.{block}.attn_v.weight" for block in (3, 7)),
    }
    assert {q for name, q in qtypes.items() if name not in raised} == {"Q4_K"}
    assert not any("conv1d" in name for name in qtypes)

"""llama.cpp's own mixes as data: the type of most tensors, and the tensors that get another type."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Spot:
    """The position of a tensor: number ``i`` of ``n`` of its kind, and facts of its model."""

    i: int
    n: int
    n_gqa: int
    n_experts: int
    has_imatrix: bool


When = Callable[[Spot], bool]


def always(_: Spot) -> bool:
    """Everywhere."""
    return True


def first_eighth(spot: Spot) -> bool:
    """In the first eighth of the layers."""
    return spot.i < spot.n // 8


def first_sixteenth(spot: Spot) -> bool:
    """In the first sixteenth of the layers."""
    return spot.i < spot.n // 16


def middle(spot: Spot) -> bool:
    """Neither in the first nor in the last eighth."""
    return spot.n // 8 <= spot.i < 7 * spot.n // 8


def more_bits(spot: Spot) -> bool:
    """In the first and last eighth, and in every third layer between: the tensors that get more bits in the M mixes."""
    return not middle(spot) or (spot.i - spot.n // 8) % 3 == 2


def shared_values(spot: Spot) -> bool:
    """At least four query heads share a value head, so that attn_v is small."""
    return spot.n_gqa >= 4


def small_values(spot: Spot) -> bool:
    """attn_v is small beside the rest: many query heads share a value head, or the model has many experts."""
    return spot.n_gqa >= 4 or spot.n_experts >= 4


def blind(spot: Spot) -> bool:
    """There is no imatrix."""
    return not spot.has_imatrix


def blind_start(spot: Spot) -> bool:
    """In the first eighth, and there is no imatrix."""
    return blind(spot) and first_eighth(spot)


def guided_start(spot: Spot) -> bool:
    """In the first eighth, and there is an imatrix."""
    return spot.has_imatrix and first_eighth(spot)


def start_or_mixtral(spot: Spot) -> bool:
    """In the first eighth; in a model with eight experts, where ``more_bits`` is true."""
    return first_eighth(spot) or (spot.n_experts == 8 and more_bits(spot))


def first(count: int) -> When:
    """Among the first ``count`` of their kind."""
    return lambda spot: spot.i < count


Rules = tuple[tuple[str, str, When], ...]
# With eight experts the attention is a small part of the file.
_EIGHT_EXPERTS = {"attn_v": "Q8_0", "attn_k": "Q8_0"}
_EIGHT_EXPERTS_OUT = {**_EIGHT_EXPERTS, "attn_output": "Q5_K"}
_EIGHT_EXPERTS_TINY = {"attn_k": "Q4_K", "attn_output": "Q5_K"}


@dataclass(frozen=True, slots=True)
class Mix:
    """Every tensor gets ``base``, unless a rule (kind, qtype, when; the first that holds), head or embedding names another type.

    In a model with exactly eight experts, ``eight_experts`` replaces the rules for its kinds. ``tiny`` marks the mixes that count layers
    by the tensors seen so far, and have no exception for the 70B.
    """

    base: str
    rules: Rules = ()
    head: str = "Q6_K"
    embedding: str = ""
    eight_experts: Mapping[str, str] = field(default_factory=lambda: _EIGHT_EXPERTS)
    tiny: bool = False


def _tiny(base: str, raised: str, embedding: str, output: str) -> Mix:
    rules = (
        ("attn_v", "Q4_K", small_values),
        ("attn_v", raised, always),
        ("ffn_down", raised, first_eighth),
        ("attn_output", output, always),
    )
    return Mix(base, rules, "Q5_K", embedding, _EIGHT_EXPERTS_TINY, tiny=True)


def _guarded(base: str, raised: str) -> Mix:
    return Mix(base, (("ffn_down", raised, guided_start),))


def _medium(base: str, eight_experts: Mapping[str, str]) -> Mix:
    return Mix(base, (("attn_v", "Q6_K", more_bits), ("ffn_down", "Q6_K", more_bits)), eight_experts=eight_experts)


def _four_bit_iq(base: str) -> Mix:
    return Mix(base, (("attn_v", "Q5_K", shared_values), ("ffn_down", "Q5_K", blind_start)), eight_experts=_EIGHT_EXPERTS_OUT)


MIXES: dict[str, Mix] = {
    "IQ1_S": _tiny("IQ1_S", "Q2_K", "Q2_K", "IQ2_XXS"),
    "IQ1_M": _tiny("IQ1_M", "Q2_K", "Q2_K", "IQ2_XXS"),
    "IQ2_XXS": _tiny("IQ2_XXS", "Q2_K", "Q2_K", "IQ2_XXS"),
    "IQ2_XS": _tiny("IQ2_XS", "Q2_K", "Q2_K", "IQ2_XS"),
    "IQ2_S": _tiny("IQ2_XS", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ2_M": _tiny("IQ2_S", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ3_XXS": Mix(
        "IQ3_XXS",
        (
            ("attn_v", "Q4_K", shared_values),
            ("attn_v", "IQ3_S", blind),
            ("attn_k", "IQ2_S", always),
            ("attn_q", "IQ2_S", always),
            ("attn_output", "IQ3_S", always),
            ("ffn_down", "Q4_K", blind_start),
            ("ffn_down", "Q3_K", blind),
        ),
        "Q5_K",
        "IQ3_S",
        _EIGHT_EXPERTS_OUT,
    ),
    "IQ3_XS": Mix(
        "IQ3_S",
        (
            ("attn_v", "Q4_K", shared_values),
            *((kind, "IQ3_XXS", always) for kind in ("attn_k", "attn_q")),
            *((kind, "IQ3_XXS", middle) for kind in ("ffn_gate", "ffn_up")),
        ),
        eight_experts=_EIGHT_EXPERTS_OUT,
    ),
    "IQ3_S": Mix("IQ3_S", (("attn_v", "Q4_K", shared_values),), eight_experts=_EIGHT_EXPERTS_OUT),
    "IQ3_M": Mix(
        "IQ3_S",
        (("attn_v", "Q4_K", always), ("attn_output", "Q4_K", always), ("ffn_down", "Q4_K", start_or_mixtral)),
        eight_experts=_EIGHT_EXPERTS_OUT,
    ),
    "IQ4_XS": _four_bit_iq("IQ4_XS"),
    "IQ4_NL": _four_bit_iq("IQ4_NL"),
    "Q2_K_S": Mix("Q2_K", (("attn_v", "Q4_K", shared_values), ("ffn_down", "Q4_K", first_eighth))),
    "Q2_K": Mix(
        "Q2_K",
        (("attn_v", "Q4_K", shared_values), *((kind, "Q3_K", always) for kind in ("attn_v", "attn_output", "ffn_down"))),
        eight_experts=_EIGHT_EXPERTS_OUT,
    ),
    "Q3_K_S": Mix("Q3_K", eight_experts=_EIGHT_EXPERTS_OUT),
    "Q3_K_M": Mix(
        "Q3_K",
        (
            ("attn_v", "Q5_K", first(2)),
            ("ffn_down", "Q5_K", first_sixteenth),
            *((kind, "Q4_K", always) for kind in ("attn_v", "attn_output", "ffn_down")),
        ),
        eight_experts=_EIGHT_EXPERTS_OUT,
    ),
    "Q3_K_L": Mix(
        "Q3_K",
        tuple((kind, "Q5_K", always) for kind in ("attn_v", "attn_output", "ffn_down")),
        eight_experts={**_EIGHT_EXPERTS, "attn_output": "Q3_K"},
    ),
    "Q4_0": _guarded("Q4_0", "Q4_1"),
    "Q4_1": Mix("Q4_1"),
    "Q4_K_S": Mix("Q4_K", (("attn_v", "Q5_K", first(4)), ("ffn_down", "Q5_K", first_eighth)), eight_experts=_EIGHT_EXPERTS_OUT),
    "Q4_K_M": _medium("Q4_K", _EIGHT_EXPERTS_OUT),
    "Q5_0": _guarded("Q5_0", "Q5_1"),
    "Q5_1": Mix("Q5_1"),
    "Q5_K_S": Mix("Q5_K"),
    "Q5_K_M": _medium("Q5_K", _EIGHT_EXPERTS),
    "Q6_K": Mix("Q6_K"),
    "Q8_0": Mix("Q8_0", head="Q8_0"),
}

"""llama.cpp's own mixes as data: the type of most tensors, and the tensors that get another type."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Facts:
    """What the mixes depend on: counts of the model, whether its head is tied to the embedding, and whether it has 70B weights."""

    n_layers: int
    n_values: int
    n_gqa: int
    n_experts: int
    tied: bool
    is_70b: bool
    has_imatrix: bool


@dataclass(frozen=True, slots=True)
class Spot:
    """The position of a tensor: number ``i`` of ``n`` of its kind, in a model with these facts."""

    i: int
    n: int
    of: Facts

    @property
    def is_early(self) -> bool:
        """In the first eighth."""
        return self.i < self.n // 8

    @property
    def is_middle(self) -> bool:
        """Neither in the first nor in the last eighth."""
        return self.n // 8 <= self.i < 7 * self.n // 8

    @property
    def gets_more(self) -> bool:
        """In the first and last eighth, and in every third layer between: the tensors that get more bits in the M mixes."""
        return not self.is_middle or (self.i - self.n // 8) % 3 == 2


# Where a rule holds. attn_v is small where many query heads share a value head, or beside many experts.
WHEN: Mapping[str, Callable[[Spot], bool]] = {
    "always": lambda _: True,
    "first 2": lambda spot: spot.i < 2,
    "first 4": lambda spot: spot.i < 4,
    "first sixteenth": lambda spot: spot.i < spot.n // 16,
    "first eighth": lambda spot: spot.is_early,
    "first eighth, or more of Mixtral": lambda spot: spot.is_early or (spot.of.n_experts == 8 and spot.gets_more),
    "middle": lambda spot: spot.is_middle,
    "more bits": lambda spot: spot.gets_more,
    "shared values": lambda spot: spot.of.n_gqa >= 4,
    "small values": lambda spot: spot.of.n_gqa >= 4 or spot.of.n_experts >= 4,
    "no imatrix": lambda spot: not spot.of.has_imatrix,
    "no imatrix, first eighth": lambda spot: not spot.of.has_imatrix and spot.is_early,
    "imatrix, first eighth": lambda spot: spot.of.has_imatrix and spot.is_early,
}

Rules = tuple[tuple[str, str, str], ...]
# With eight experts the attention is a small part of the file.
_EIGHT_EXPERTS = {"attn_v": "Q8_0", "attn_k": "Q8_0"}
_EIGHT_EXPERTS_OUT = {**_EIGHT_EXPERTS, "attn_output": "Q5_K"}
_EIGHT_EXPERTS_TINY = {"attn_k": "Q4_K", "attn_output": "Q5_K"}


@dataclass(frozen=True, slots=True)
class Mix:
    """Every tensor gets ``base``, unless a rule (kinds, qtype, when; the first that holds), head or embedding names another type.

    In a model with exactly eight experts, ``eight_experts`` replaces the rules for its kinds. ``tiny`` marks the mixes that count layers
    by the tensors seen so far, and have no exception for the 70B.
    """

    base: str
    rules: Rules = ()
    head: str = "Q6_K"
    embedding: str = ""
    eight_experts: Mapping[str, str] = field(default_factory=lambda: _EIGHT_EXPERTS)
    tiny: bool = False


def _tiny(base: str, raised: str, output: str) -> Mix:
    rules = (
        ("attn_v", "Q4_K", "small values"),
        ("attn_v", raised, "always"),
        ("ffn_down", raised, "first eighth"),
        ("attn_output", output, "always"),
    )
    return Mix(base, rules, "Q5_K", raised, _EIGHT_EXPERTS_TINY, tiny=True)


def _mix(base: str, *rules: tuple[str, str, str]) -> Mix:
    return Mix(base, rules, eight_experts=_EIGHT_EXPERTS_OUT)


_SHARED = ("attn_v", "Q4_K", "shared values")
_MEDIUM = ("attn_v ffn_down", "Q6_K", "more bits")
_FOUR_BIT_IQ = (("attn_v", "Q5_K", "shared values"), ("ffn_down", "Q5_K", "no imatrix, first eighth"))
MIXES: dict[str, Mix] = {
    "IQ1_S": _tiny("IQ1_S", "Q2_K", "IQ2_XXS"),
    "IQ1_M": _tiny("IQ1_M", "Q2_K", "IQ2_XXS"),
    "IQ2_XXS": _tiny("IQ2_XXS", "Q2_K", "IQ2_XXS"),
    "IQ2_XS": _tiny("IQ2_XS", "Q2_K", "IQ2_XS"),
    "IQ2_S": _tiny("IQ2_XS", "IQ3_S", "IQ3_S"),
    "IQ2_M": _tiny("IQ2_S", "IQ3_S", "IQ3_S"),
    "IQ3_XXS": Mix(
        "IQ3_XXS",
        (
            _SHARED,
            ("attn_v", "IQ3_S", "no imatrix"),
            ("attn_k attn_q", "IQ2_S", "always"),
            ("attn_output", "IQ3_S", "always"),
            ("ffn_down", "Q4_K", "no imatrix, first eighth"),
            ("ffn_down", "Q3_K", "no imatrix"),
        ),
        "Q5_K",
        "IQ3_S",
        _EIGHT_EXPERTS_OUT,
    ),
    "IQ3_XS": _mix("IQ3_S", _SHARED, ("attn_k attn_q", "IQ3_XXS", "always"), ("ffn_gate ffn_up", "IQ3_XXS", "middle")),
    "IQ3_S": _mix("IQ3_S", _SHARED),
    "IQ3_M": _mix("IQ3_S", ("attn_v attn_output", "Q4_K", "always"), ("ffn_down", "Q4_K", "first eighth, or more of Mixtral")),
    "IQ4_XS": _mix("IQ4_XS", *_FOUR_BIT_IQ),
    "IQ4_NL": _mix("IQ4_NL", *_FOUR_BIT_IQ),
    "Q2_K_S": Mix("Q2_K", (_SHARED, ("ffn_down", "Q4_K", "first eighth"))),
    "Q2_K": _mix("Q2_K", _SHARED, ("attn_v attn_output ffn_down", "Q3_K", "always")),
    "Q3_K_S": _mix("Q3_K"),
    "Q3_K_M": _mix(
        "Q3_K",
        ("attn_v", "Q5_K", "first 2"),
        ("ffn_down", "Q5_K", "first sixteenth"),
        ("attn_v attn_output ffn_down", "Q4_K", "always"),
    ),
    "Q3_K_L": Mix(
        "Q3_K",
        (("attn_v attn_output ffn_down", "Q5_K", "always"),),
        eight_experts={**_EIGHT_EXPERTS, "attn_output": "Q3_K"},
    ),
    "Q4_0": Mix("Q4_0", (("ffn_down", "Q4_1", "imatrix, first eighth"),)),
    "Q4_1": Mix("Q4_1"),
    "Q4_K_S": _mix("Q4_K", ("attn_v", "Q5_K", "first 4"), ("ffn_down", "Q5_K", "first eighth")),
    "Q4_K_M": _mix("Q4_K", _MEDIUM),
    "Q5_0": Mix("Q5_0", (("ffn_down", "Q5_1", "imatrix, first eighth"),)),
    "Q5_1": Mix("Q5_1"),
    "Q5_K_S": Mix("Q5_K"),
    "Q5_K_M": Mix("Q5_K", (_MEDIUM,)),
    "Q6_K": Mix("Q6_K"),
    "Q8_0": Mix("Q8_0", head="Q8_0"),
}

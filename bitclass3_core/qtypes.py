"""ggml's quantization types: block and type sizes from ``gguf.GGML_QUANT_SIZES``, and the menus that a run chooses from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from bitclass3_core.errors import ConfigError, did_you_mean

FLOAT_QTYPES = ("F32", "F16", "BF16")
# What llama-quantize can write and every recent llama.cpp can run. MXFP4, NVFP4 and the ternary types are made for models trained in them.
WRITABLE_QTYPES = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
)
_K = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
_LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
MENUS = {
    # Useful between 2.6 and 8.5 bpw; every back end runs them, though not always at full speed.
    "default": (
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"),
        *("Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    ),
    "k": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q5_0"),
    "all": WRITABLE_QTYPES,
    # What llama.cpp's back ends are fast with: docs/reference/type-menus.md says from which of its files.
    "cuda": tuple(name for name in WRITABLE_QTYPES if name != "IQ1_M"),
    "cpu": (*_K, *_LEGACY, "IQ4_NL", "IQ4_XS"),
    "metal": (*_K, *_LEGACY, "IQ4_NL"),
    "vulkan": (*_K, *_LEGACY, "IQ4_XS"),
}
# ggml refuses these without an imatrix, or writes garbage (llama-quantize stops for them too).
NEEDS_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})


# Columns that share a scale where ggml's CPU back end rounds the inputs of a product to 8 bits (ggml-cpu.c, vec_dot_type).
ACTIVATION_BLOCKS = {"Q8_K": 256, "Q8_0": 32}


@dataclass(frozen=True, slots=True, order=True)
class QType:
    """A ggml type: ``block_size`` weights are stored in ``type_size`` bytes."""

    name: str
    block_size: int
    type_size: int
    ggml_id: int

    @property
    def bpw(self) -> float:
        """Bits per weight, block overhead included."""
        return 8 * self.type_size / self.block_size

    @property
    def is_float(self) -> bool:
        """True for F32, F16 and BF16: nothing is lost but digits of the mantissa."""
        return self.name in FLOAT_QTYPES


def activation_format(q: QType) -> str | None:
    """The format to which ggml's CPU back end rounds the inputs of a product with weights of that type; None if it keeps them."""
    if q.is_float:
        return None
    return "Q8_K" if q.block_size == ACTIVATION_BLOCKS["Q8_K"] else "Q8_0"  # Q8_1 has the same step as Q8_0


@cache
def qtype(name: str) -> QType:
    """The type with that ggml name, in upper or lower case (``q4_k`` is ``Q4_K``).

    Raises ConfigError for a name that gguf does not know.
    """
    try:
        ggml = GGMLQuantizationType[name.upper()]
    except KeyError:
        known = (*WRITABLE_QTYPES, *FLOAT_QTYPES)
        raise ConfigError(f"unknown qtype {name!r}{did_you_mean(name, known)}") from None
    block_size, type_size = GGML_QUANT_SIZES[ggml]
    return QType(ggml.name, block_size, type_size, int(ggml))


def menu(names: str | Iterable[str]) -> tuple[QType, ...]:
    """The types of a menu (``"default"``, ``"k"``, ``"cpu"``, ``"all"``) or of a list of names, without doubles, smallest first.

    Raises ConfigError for an unknown menu or type, for a type that cannot be written, and for an empty list.
    """
    if isinstance(names, str):
        if names not in MENUS:
            raise ConfigError(f"unknown menu {names!r}{did_you_mean(names, MENUS)}")
        names = MENUS[names]
    chosen = {qtype(name) for name in names}
    for q in chosen:
        if q.name not in WRITABLE_QTYPES and not q.is_float:
            raise ConfigError(f"qtype {q.name!r} cannot be written{did_you_mean(q.name, WRITABLE_QTYPES)}")
    if not chosen:
        raise ConfigError("the menu of qtypes is empty; name at least one")
    return tuple(sorted(chosen, key=lambda q: (q.bpw, q.name)))

"""Budget ``bit-classes``: a level such as Q4_K_M becomes bytes by the model's own sensitivity.

The score of a tensor is mean(E[x^2]) over its input channels; the largest of the model is 1.0. The score puts the tensor into one of
three classes. A level gives each class a bpw, and the budget is the size of all tensors at the bpw of their class. So the same level
gives more bits to a model with more sensitive weights. The solver alone chooses the types within the budget.

The defaults give 8.5, 6.0, 5.4, 4.8 and 3.6 bpw for Q8_0, Q6_K, Q5_K_M, Q4_K_M and Q3_K_S on a 9B Qwen3.5 whose keys and values are
its most sensitive tensors (tests/unit/test_bit_classes.py).
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bitclass3_core import hookimpl
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.layout import Budget, fixed_bytes
from bitclass3_core.model import Architecture, Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.sensitivity import Sensitivity

BITCLASS3_ANSWERS = "500bb83e068d"  # changes when the answers do

Bits = tuple[float, float, float]  # bpw of the classes high, middle, low
CLASSES = ("high", "middle", "low")
LEVELS: dict[str, Bits] = {
    "Q8_0": (8.5, 8.5, 8.5),
    "Q6_K": (8.5, 6.2, 5.0),
    "Q5_K_M": (6.5, 5.65, 4.5),
    "Q5_K_S": (6.5, 5.35, 4.25),
    "Q4_K_M": (6.0, 5.0, 4.0),
    "Q4_K_S": (5.5, 4.65, 3.85),
    "Q3_K_L": (5.5, 4.25, 3.5),
    "Q3_K_M": (5.0, 4.0, 3.25),
    "Q3_K_S": (4.5, 3.75, 3.0),
    "Q2_K": (4.0, 3.15, 2.6),
}


class Options(PluginOptions):
    """The scores at which the classes begin, and the bits of every level."""

    high: float = Field(0.5, ge=0, le=1, description="score from which a tensor is in the class high")
    middle: float = Field(0.02, ge=0, le=1, description="score from which it is in the class middle; below: low")
    unscored: Literal["high", "middle", "low"] = Field("middle", description="class of tables that are looked up (token_embd)")
    levels: dict[str, Bits] = Field(
        {}, validate_default=True, description="levels to add or change: name = [high, middle, low], in bpw"
    )

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: dict[str, Bits]) -> dict[str, Bits]:
        for name, bits in levels.items():
            if not all(0 < b <= 32 for b in bits):
                raise ValueError(f"the bits of level {name} must lie above 0 and be at most 32")
        return {**LEVELS, **{name.upper(): bits for name, bits in levels.items()}}

    @model_validator(mode="after")
    def _thresholds(self) -> "Options":
        if self.middle > self.high:
            raise ValueError(f"middle ({self.middle}) must not be above high ({self.high})")
        return self


def bit_class(score: float | None, options: Options) -> int:
    """0, 1 or 2: index into ``CLASSES`` and into a level's bits."""
    if score is None:
        return CLASSES.index(options.unscored)
    return 0 if score >= options.high else 1 if score >= options.middle else 2


def class_weights(model: Model, architecture: Architecture, scores: Mapping[str, float], options: Options) -> list[int]:
    """Number of weights in each class, over the tensors that may be quantized."""
    weights = [0, 0, 0]
    for name in architecture.quantizable:
        weights[bit_class(scores.get(name), options)] += model.tensors[name].n_params
    return weights


@hookimpl
def bitclass3_budget(
    model: Model, architecture: Architecture, sensitivity: Sensitivity, level: str | None, options: Options
) -> Budget:
    """The budget of a level. Raises ConfigError if there is no level or an unknown one."""
    if level is None:
        raise ConfigError(f"no level; give --level NAME, known: {', '.join(options.levels)}")
    name = level.upper()
    if name not in options.levels:
        raise ConfigError(f"unknown level {level!r}{did_you_mean(level, options.levels)}")
    weights = class_weights(model, architecture, sensitivity.scores(), options)
    n_bits = sum(bits * n for bits, n in zip(options.levels[name], weights, strict=True))
    return Budget(int(n_bits / 8) + fixed_bytes(model, architecture.quantizable), name)

"""What the project set itself on smol768: mean KLD on WikiText-2 test, first 24 chunks of 512, at the size of stock's file."""

from collections.abc import Mapping

TEXT, N_CHUNKS = "wiki", 24

_BEST = {
    "Q2_K": 0.30,
    "Q3_K_S": 0.155,
    "IQ3_M": 0.14,
    "Q3_K_M": 0.105,
    "IQ4_XS": 0.065,
    "Q4_K_M": 0.046,
    "Q5_K_M": 0.026,
}
GOALS: Mapping[str, Mapping[str, float]] = {
    "plain": {  # what the trial of the method reached with stock llama-quantize
        "Q2_K": 0.441,
        "Q3_K_S": 0.226,
        "IQ3_M": 0.196,
        "Q3_K_M": 0.154,
        "IQ4_XS": 0.0931,
        "Q4_K_M": 0.0615,
        "Q5_K_M": 0.0332,
    },
    "feedback": _BEST,
    "tuned": _BEST,
}


def against_goal(recipe: str, size: str, mean_kld: float) -> str:
    """``0.105, met`` or ``0.105, 14 % above``; empty where there is no goal."""
    goal = GOALS.get(recipe, {}).get(size)
    if goal is None:
        return ""
    return f"{goal:g}, met" if mean_kld <= goal else f"{goal:g}, {mean_kld / goal - 1:.0%} above".replace("%", " %")

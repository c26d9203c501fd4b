"""Moved to ``bitclass3_core.knapsack.dual``; this name stays for plugin API 1."""

from bitclass3_core.knapsack.dual import (
    OPTIMAL_GAP,
    Bools,
    Dual,
    Floats,
    Ints,
    Steps,
    Tables,
    hull_steps,
    lagrangian_dual,
    proof_of,
    reduced_costs,
    require_feasible,
    tables_of,
)

__all__ = [
    "OPTIMAL_GAP",
    "Bools",
    "Dual",
    "Floats",
    "Ints",
    "Steps",
    "Tables",
    "hull_steps",
    "lagrangian_dual",
    "proof_of",
    "reduced_costs",
    "require_feasible",
    "tables_of",
]

"""Multipliers for the costs of each role, fitted on mixes of one size that were measured: what the costs get wrong for a whole role is put right.

    KLD of a mix ~= sum over roles of m_role * sum over the role's tensors of cost(tensor, its type)

Each m comes from least squares of the relative errors. Few mixes leave directions of which nothing is known: all m are held near the common ratio of
measured to predicted.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.costs import CostTable
from bitclass3_core.files import digest_of
from bitclass3_core.progress import Silent
from bitclass3_core.runs.candidates import SELECTION
from bitclass3_core.runs.solution import Solution, solution_of

SPREAD = 0.7  # of the logarithms of the multipliers by which mixes are drawn
RIDGE = 0.05  # what a multiplier's deviation from the common ratio costs beside the relative errors of the fit
LEAST = 0.1  # of the common ratio, below which no multiplier falls: a role that costs nothing would get no bits at all
_MOST_DRAWS = 8  # for each mix that is wanted: a small model has few mixes that differ
AT_ONCE = 4  # mixes that lie on disk at a time; the source's predictions are computed once for all of them

Floats = NDArray[np.float64]


def drawn_multipliers(roles: Sequence[str], seed: int = 0) -> Iterator[dict[str, float]]:
    """Multipliers by role that lead to different mixes, without end; the first are all 1."""
    rng = np.random.default_rng(seed)
    yield dict.fromkeys(roles, 1.0)
    while True:
        yield dict(zip(roles, np.exp(SPREAD * rng.standard_normal(len(roles))).tolist(), strict=True))


def fitted_multipliers(parts: Floats, measured: Floats) -> Floats:
    """The multiplier of each role [n_roles], from predictions by role [n_mixes, n_roles] and what was measured [n_mixes], both positive."""
    relative = parts / measured[:, None]
    ratio = 1 / relative.sum(1).mean()
    n_roles = parts.shape[1]
    left = np.vstack([relative, np.eye(n_roles) * RIDGE / ratio])
    right = np.concatenate([np.ones(len(measured)), np.full(n_roles, RIDGE)])
    found: Floats = np.linalg.lstsq(left, right, rcond=None)[0]
    return found.clip(min=LEAST * ratio)


def parts_by_role(costs: CostTable, roles: Mapping[str, str], qtypes: Mapping[str, str]) -> dict[str, float]:
    """The predicted cost of a mix, role by role; ``roles`` and ``qtypes`` are by tensor."""
    parts = dict.fromkeys(sorted(set(roles.values())), 0.0)
    for name, role in roles.items():
        parts[role] += costs.costs[name][qtypes[name]].cost
    return parts


def fit_costs(solution: Solution) -> Solution | None:
    """The same solution with multipliers fitted on the selection text; None where its costs or its files say nothing."""
    config, context, roles = solution.inputs.config, solution.inputs.context, solution.inputs.roles
    mixes = _mixes(solution)
    measured = np.array(_measured(solution, mixes))
    parts = [parts_by_role(solution.measured, roles, mix.allocation.qtypes) for mix in mixes]
    predicted = np.array([list(part.values()) for part in parts])
    if not ((measured > 0).all() and (predicted.sum(1) > 0).all()):
        context.warn("select: no multipliers fitted: a mix has no predicted or no measured divergence")
        return None
    found = fitted_multipliers(predicted, measured)
    multipliers = {role: float(f"{value:.4g}") for role, value in zip(parts[0], found, strict=True)}
    told = ", ".join(f"{role} {value:.3g}" for role, value in multipliers.items())
    ratios = [predicted @ factors / measured for factors in (np.ones(len(found)), found)]
    before, after = (ratio.std() / ratio.mean() for ratio in ratios)
    context.progress.say(
        f"select: cost_multipliers fitted on {len(mixes)} mixes: {told}; predictions scatter by {before:.1%} without, {after:.1%} with them"
    )
    return solution_of(config.model_copy(update={"cost_multipliers": multipliers}), context)


def _mixes(solution: Solution) -> list[Solution]:
    """Solutions of the same size that differ, the run's own first; rounded with effort fast: it is types that are told apart here."""
    mixes: dict[str, Solution] = {}
    config, aside = solution.inputs.config, solution.inputs.context.aside()
    asked, n_mixes = config.cost_multipliers, config.select.mixes
    for drawn in islice(drawn_multipliers(sorted(set(solution.inputs.roles.values()))), _MOST_DRAWS * n_mixes):
        if len(mixes) == n_mixes:
            break
        multipliers = {role: asked.get(role, 1.0) * factor for role, factor in drawn.items()}
        mix = solution_of(config.model_copy(update={"cost_multipliers": multipliers, "effort": "fast"}), aside)
        mixes.setdefault(digest_of(dict(mix.allocation.qtypes)), mix)
    return list(mixes.values())


def _measured(solution: Solution, mixes: Sequence[Solution]) -> list[float]:
    """Mean KLD of each mix; its file is deleted as soon as that is known, and never made again for it."""
    found: list[float] = []
    store, progress = solution.store, solution.inputs.context.progress
    progress.begin("mixes", len(mixes))
    try:
        for begin in range(0, len(mixes), AT_ONCE):
            some = list(enumerate(mixes[begin : begin + AT_ONCE], begin + 1))
            files = [mix.store.make(mix.planned(f"-mix{number:02}", "variation"), Silent(), SELECTION) for number, mix in some]
            evaluations = store.evaluate(files, Silent(), SELECTION)
            for file in files:
                found.append(evaluations[file.name].mean_kld)
                if file.path is not None:
                    store.drop(file)
                progress.advance()
    finally:
        progress.end()
    return found

"""What was measured of a candidate: KLD and PPL with their errors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_CHUNKS = 8  # with fewer chunks their spread says little: the standard error is then that of independent tokens
MAX_GROUPS = 16  # groups of chunks whose mean KLD is kept, if an evaluator does not know the KLD of each token


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Divergence of a candidate's next-token distributions from the reference's, in nats per scored token.

    ``token_kld`` [n_tokens] is the KLD of every scored token, for paired comparisons: ``n_chunks`` equal chunks, one after the other.
    Standard errors come from the spread between chunks: tokens of one chunk are not independent.
    An evaluator that does not know the KLD of each token gives ``group_kld`` [n_groups] instead: the mean KLD of each group of
    chunks that ``group_bounds(n_chunks)`` names. ``ln_ppl_ratio`` is ln(ppl / reference_ppl), with its paired standard error.
    ``rms_dp`` is the root mean square change of the probability of the text's token, as a share. Both are None if an evaluator does
    not state them. ``figures`` holds all else that it states, under its own names: (value, its own standard error or None).
    ``tensor_kld`` is, for each probed tensor, the mean KLD of the reference with that one tensor of the candidate.
    """

    candidate: str
    n_tokens: int
    n_chunks: int
    mean_kld: float
    se_kld: float
    median_kld: float
    p99_kld: float
    p999_kld: float
    same_top1: float
    se_same_top1: float
    ppl: float
    se_ppl: float
    reference_ppl: float
    se_reference_ppl: float
    domains: Mapping[str, float] = field(default_factory=dict)
    evaluator: str = ""
    token_kld: NDArray[np.float32] | None = None
    ln_ppl_ratio: float | None = None
    se_ln_ppl_ratio: float | None = None
    rms_dp: float | None = None
    se_rms_dp: float | None = None
    figures: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    group_kld: Sequence[float] = ()
    tensor_kld: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields but ``token_kld``."""
        return {name: value for name, value in asdict(self).items() if name != "token_kld"}


def standard_error(values: NDArray[np.floating[Any]], n_chunks: int) -> float:
    """Standard error of the mean of ``values`` [n_tokens], from the spread of the means of ``n_chunks`` equal chunks."""
    if n_chunks >= MIN_CHUNKS and len(values) % n_chunks == 0:
        values = values.reshape(n_chunks, -1).mean(axis=1)
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def group_bounds(n_chunks: int) -> NDArray[np.int64]:
    """The bounds [n_groups + 1] of groups of consecutive chunks, about equally large: one group a chunk, at most ``MAX_GROUPS``."""
    return np.asarray(np.linspace(0, n_chunks, min(n_chunks, MAX_GROUPS) + 1).round(), np.int64)


def grouped_error(means: NDArray[np.float64], n_chunks: int) -> float:
    """Standard error of the mean over all chunks, from the spread of the means of the groups [n_groups]."""
    if len(means) < 2:
        return float("nan")
    weights = np.diff(group_bounds(n_chunks)) / n_chunks
    deviations = weights * (means - weights @ means)
    return float(np.sqrt(len(means) / (len(means) - 1) * (deviations**2).sum()))


def summarize(
    candidate: str,
    kld: NDArray[np.float32],
    same_top1: NDArray[np.bool_],
    nll: NDArray[np.float64],
    reference_nll: NDArray[np.float64],
    domains: NDArray[np.str_],
    n_chunks: int,
    evaluator: str,
) -> Evaluation:
    """The figures of an evaluation from per-token values, each [n_tokens], chunk after chunk."""
    percentiles = np.quantile(kld, [0.5, 0.99, 0.999])
    ppl, reference_ppl = float(np.exp(nll.mean())), float(np.exp(reference_nll.mean()))
    return Evaluation(
        candidate=candidate,
        n_tokens=len(kld),
        n_chunks=n_chunks,
        mean_kld=float(kld.mean(dtype=np.float64)),
        se_kld=standard_error(kld.astype(np.float64), n_chunks),
        median_kld=float(percentiles[0]),
        p99_kld=float(percentiles[1]),
        p999_kld=float(percentiles[2]),
        same_top1=float(same_top1.mean()),
        se_same_top1=standard_error(same_top1.astype(np.float64), n_chunks),
        ppl=ppl,
        se_ppl=ppl * standard_error(nll, n_chunks),
        reference_ppl=reference_ppl,
        se_reference_ppl=reference_ppl * standard_error(reference_nll, n_chunks),
        domains={str(d): float(kld[domains == d].mean(dtype=np.float64)) for d in np.unique(domains)},
        evaluator=evaluator,
        token_kld=kld.astype(np.float32),
    )


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float] | None:
    """(mean KLD of ``a`` minus that of ``b``, its standard error) on the same tokens; None if they did not score the same tokens."""
    if a.n_chunks != b.n_chunks:
        return None
    if a.token_kld is None or b.token_kld is None:
        return _grouped_difference(a, b)
    if a.token_kld.shape != b.token_kld.shape:
        return None
    difference = a.token_kld.astype(np.float64) - b.token_kld.astype(np.float64)
    return float(difference.mean()), standard_error(difference, a.n_chunks)


def _grouped_difference(a: Evaluation, b: Evaluation) -> tuple[float, float] | None:
    """``paired_difference`` from the means of groups of chunks; None if the evaluators differ: they score other tokens."""
    if not a.group_kld or len(a.group_kld) != len(b.group_kld) or a.evaluator != b.evaluator:
        return None
    difference = np.asarray(a.group_kld, np.float64) - np.asarray(b.group_kld, np.float64)
    return a.mean_kld - b.mean_kld, grouped_error(difference, a.n_chunks)

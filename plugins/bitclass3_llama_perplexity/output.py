"""Reads every figure, with its error, that llama-perplexity prints in a KL divergence run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.errors import ToolchainError
from bitclass3_core.evaluation import MIN_CHUNKS, Evaluation, group_bounds, grouped_error
from bitclass3_core.toolchain.running import last_lines

_NUMBER = r"(-?(?:\d+\.\d+|nan|inf))"
_FIGURE = re.compile(rf"^ *([^:\n]*(?:PPL|KLD|Δp|top p)[^:\n]*?) *: *{_NUMBER}(?: ± *{_NUMBER})? *(%?)$", re.MULTILINE)
_PAIR = rf" +{_NUMBER} ± +{_NUMBER}"
_ROW = re.compile(rf"^ *(\d+){_PAIR}{_PAIR}{_PAIR}{_PAIR} %{_PAIR} %$", re.MULTILINE)
_RENAMED = {"Cor(ln(PPL(Q)), ln(PPL(base)))": "Correlation of ln(PPL(Q)) and ln(PPL(base))"}
_NEEDED = ("Mean PPL(Q)", "Mean PPL(base)", "Median KLD", "99.0% KLD", "99.9% KLD", "RMS Δp", "Same top p")


@dataclass(frozen=True, slots=True)
class Running:
    """The table with a line after each chunk: figures over all chunks so far, each [n_chunks]."""

    ln_ppl: NDArray[np.float64]
    ln_ratio: NDArray[np.float64]  # rounded to 5 decimals, as kld
    kld: NDArray[np.float64]
    squared_dp: NDArray[np.float64]
    same_top: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """All that was printed: figures by name as (value, error or None), with percentages as shares; and the table."""

    figures: Mapping[str, tuple[float, float | None]]
    running: Running

    def is_grouped(self, n_chunks: int) -> bool:
        """Whether standard errors come from groups of chunks; with too few chunks they are those of independent tokens."""
        return len(self.running.kld) == n_chunks >= MIN_CHUNKS

    def error(
        self, n_chunks: int, values: NDArray[np.float64], name: str, slope: float = 1.0, final: float | None = None
    ) -> float | None:
        """Standard error of slope * mean(values); without groups, llama.cpp's own error of the figure ``name``."""
        if not self.is_grouped(n_chunks):
            return self.figures[name][1]
        error = abs(slope) * grouped_error(group_means(values, final), n_chunks)
        return error if np.isfinite(error) else None


def _number(text: str | None, unit: float) -> float | None:
    value = float(text) * unit if text else None
    return value if value is not None and np.isfinite(value) else None


def parse_figures(output: str) -> dict[str, tuple[float, float | None]]:
    """Figures by llama.cpp's names, without double spaces: (value, its error or None); a value can be NaN."""
    figures = {}
    for name, value, error, percent in _FIGURE.findall(output):
        name, unit = " ".join(name.split()), 0.01 if percent else 1.0
        figures[_RENAMED.get(name, name)] = (float(value) * unit, _number(error, unit))
    return figures


def parse_table(output: str) -> Running:
    """The running figures after each chunk."""
    rows = [match.groups() for match in _ROW.finditer(output)]
    values = np.array([[float(cell) for cell in row[1::2]] for row in rows], np.float64).reshape(-1, 5)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Running(np.log(values[:, 0]), values[:, 1], values[:, 2], (values[:, 3] / 100) ** 2, values[:, 4] / 100)


def parse(output: str, what: str) -> Statistics:
    """The statistics of a run. Raises ToolchainError with its last lines if it printed none: its exit code is then 0 too."""
    figures = parse_figures(output)
    if "Mean KLD" not in figures:
        raise ToolchainError(f"llama-perplexity measured nothing of {what}; its last lines: {last_lines(output)}")
    missing = [name for name in _NEEDED if name not in figures]
    if missing:
        raise ToolchainError(
            f"llama-perplexity printed no {missing[0]!r} for {what}: its llama.cpp is too old (or too new); "
            "update it, or run `bitclass3 toolchain install` and unset LLAMA_CPP_DIR"
        )
    return Statistics(figures, parse_table(output))


def is_cut_off(output: str) -> bool:
    """Whether the last figure is missing, though chunks were measured and no failure was printed."""
    return "Same top p" not in parse_figures(output) and len(parse_table(output).kld) > 0 and "kl_divergence: failed" not in output


def group_means(running: NDArray[np.float64], final: float | None = None) -> NDArray[np.float64]:
    """Mean of each group of chunks [n_groups] from running means [n_chunks]; ``final`` is the last running mean with more decimals.

    Groups are needed because the running mean after n chunks is rounded to 5 decimals: the mean of chunk n alone would be wrong by about
    n * 1e-5. With 16 groups the rounding adds 1e-5 to the standard error, in quadrature.
    """
    bounds = group_bounds(len(running))
    totals = np.concatenate([[0.0], running * np.arange(1, len(running) + 1)])
    if final is not None:
        totals[-1] = final * len(running)
    return np.asarray(np.diff(totals[bounds]) / np.diff(bounds), np.float64)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def as_evaluation(statistics: Statistics, candidate: str, n_chunks: int, n_scored: int, evaluator: str) -> Evaluation:
    """The evaluation of a candidate over ``n_chunks`` chunks of ``n_scored`` scored tokens each."""
    figures, running = statistics.figures, statistics.running
    error = partial(statistics.error, n_chunks)
    value = {name: pair[0] for name, pair in figures.items()}
    ppl, base, rms = value["Mean PPL(Q)"], value["Mean PPL(base)"], value["RMS Δp"]
    kld = value["Mean KLD"]
    ratio = "Mean ln(PPL(Q)/PPL(base))"
    return Evaluation(
        candidate=candidate,
        n_tokens=n_chunks * n_scored,
        n_chunks=n_chunks,
        mean_kld=max(kld, 0.0),  # for the reference itself the 16 bits can make it a little less than 0
        se_kld=_or_nan(error(running.kld, "Mean KLD", final=kld)),
        median_kld=value["Median KLD"],
        p99_kld=value["99.0% KLD"],
        p999_kld=value["99.9% KLD"],
        same_top1=value["Same top p"],
        se_same_top1=_or_nan(error(running.same_top, "Same top p")),
        ppl=ppl,
        se_ppl=_or_nan(error(running.ln_ppl, "Mean PPL(Q)", ppl)),
        reference_ppl=base,
        se_reference_ppl=_or_nan(error(running.ln_ppl - running.ln_ratio, "Mean PPL(base)", base)),
        evaluator=evaluator,
        ln_ppl_ratio=value.get(ratio, float(np.log(ppl / base))),
        se_ln_ppl_ratio=error(running.ln_ratio, ratio) if ratio in figures else None,
        rms_dp=rms,
        se_rms_dp=error(running.squared_dp, "RMS Δp", 0.5 / rms) if rms > 0 else None,
        figures={name: pair for name, pair in figures.items() if np.isfinite(pair[0])},
        group_kld=tuple(map(float, group_means(running.kld, kld))) if statistics.is_grouped(n_chunks) else (),
    )

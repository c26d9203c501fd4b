"""Sensitivity without a backward pass: quantize one class of tensors in one band of depth at a time, and measure the KLD.

    KLD(group at a low type) - noise floor = scale * sum over its tensors of 1/2 sum_ij share_i in_power_j D_ij^2

``scale`` stands in for E[g^2] of every output channel of the group, so that costs come out in nats per token (the linearity that
HIGGS, Malinovskii et al. 2024, relies on). It needs an imatrix for in_power and an evaluator for the KLD; with llama-imatrix
and llama-perplexity it works for every architecture that llama.cpp runs, torch or not.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.model import Architecture, Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity
from bitclass3_core.stage_calls import Stages
from bitclass3_core.toolchain.places import cache_folder
from bitclass3_kld_probe.groups import Fitted, Measured, ProbeGroup, fit_scales, probe_groups
from bitclass3_kld_probe.probes import Prober, judge_of

BITCLASS3_ANSWERS = "747e0e39630b"  # changes when the answers do


class Options(PluginOptions):
    """The imatrix (a file, or made by llama-imatrix: options of the plugin ``imatrix``), and how the probes are measured."""

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    n_tokens: int = Field(65536, gt=0, description="calibration tokens of the imatrix at the most")
    n_ctx: int = Field(512, gt=1, description="tokens a chunk")
    threads: int = Field(0, ge=0, description="0: llama-imatrix's default")
    gpu_layers: int = Field(-1, ge=-1, description="layers on the GPU; -1: llama-imatrix's default")
    path: Path | None = Field(None, description="imatrix file, .gguf or legacy .dat; unset: llama-imatrix makes one of the corpus")

    evaluator: str = Field(
        "auto", description="plugin that measures KLD; auto: torch where there is an HF folder, else llama-perplexity"
    )
    evaluator_options: dict[str, object] = Field(default_factory=dict, description="options of that plugin, over those chosen here")
    bands: int = Field(3, ge=1, description="bands of depth that each class of tensors is cut into")
    probe_tokens: int = Field(8192, gt=0, description="calibration tokens that each probe is measured on")

    def of_imatrix(self) -> dict[str, Any]:
        """The options of the plugin ``imatrix`` among these."""
        return self.model_dump(include={"llama_cpp", "n_tokens", "n_ctx", "threads", "gpu_layers", "path"})


def _note(groups: list[ProbeGroup], measured: list[Measured], fitted: Fitted, floor: float, judge: str) -> str:
    weak = [group.name for group, one in zip(groups, measured, strict=True) if one.is_noise]
    tail = f"; not above the noise, taken from their class: {', '.join(weak[:4])}" if weak else ""
    return (
        f"kld-probe: {len(groups)} groups by {judge}, noise floor {floor:.2g} nats/token, "
        f"spread between bands of a class {fitted.spread:.0%}{tail}"
    )


def _scaled(known: TensorSensitivity, scale: float, n_rows: int) -> TensorSensitivity:
    """The powers with ``scale`` as out_power of every row, times the rows' own share where they have one."""

    def one(powers: Powers | None) -> Powers | None:
        if powers is None:
            return None
        shares = np.ones(n_rows, np.float32) if powers.out_power is None else powers.out_power
        return Powers(powers.in_power, (shares * np.float32(scale)).astype(np.float32))

    return TensorSensitivity(one(known.linear), one(known.lookup))


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: Options, progress: Progress, stages: Stages
) -> Sensitivity:
    """in_power from the imatrix, out_power one measured number for each class of tensors and band of depth."""
    judge = judge_of(stages, options.evaluator, options.evaluator_options, model, options.n_ctx, options.probe_tokens)
    imatrix = stages.plugin("estimate", "imatrix", options.of_imatrix())
    unscaled: Sensitivity = imatrix(model=model, architecture=architecture, corpus=corpus, progress=progress)
    groups = probe_groups(model, architecture.quantizable, options.bands)
    text = Corpus((), corpus.calibration)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".probes-", dir=cache_folder()) as folder:
        prober = Prober(model, architecture, unscaled, text, judge, stages, progress, Path(folder))
        floor = prober.noise_floor()
        measured = []
        progress.begin("kld-probe", len(groups))
        for group in groups:
            measured.append(prober.measure(group, floor))
            progress.advance()
        progress.end()
    fitted = fit_scales(groups, measured)
    tensors = {
        name: _scaled(unscaled.tensors[name], scale, model.tensors[name].n_rows)
        for group, scale in zip(groups, fitted.scales, strict=True)
        for name in group.tensors
    }
    notes = (*unscaled.notes, _note(groups, measured, fitted, floor, judge.name))
    return replace(unscaled, tensors=tensors, estimator="kld-probe", notes=notes, only_ranks=False)

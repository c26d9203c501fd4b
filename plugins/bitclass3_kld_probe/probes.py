"""One probe: a file in which one group of tensors has a low type and all others are as in the source, and its measured KLD.

Every finished probe is kept in the cache under all that it depends on: a killed run, or another run on the same model, measures no
probe twice.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import PluginError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import digest_of, write_json
from bitclass3_core.gguf.kernels import library
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture, Model, OneTensor, TensorInfo
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress, Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.runs.artefact import Artefact
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.stage_calls import StagePlugin, Stages
from bitclass3_core.toolchain.places import cache_folder
from bitclass3_kld_probe.groups import Measured, ProbeGroup

# Low enough to stand out from the noise, high enough for the quadratic model: a probe that does neither moves one step.
_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K")
_FIRST = 1
_BLOCKS_OF_32 = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q4_1", "Q6_K": "Q5_1"}
_METRIC, _EXPORTER = "weighted-error", "gguf"
_TOO_SMALL, _TOO_LARGE = 3.0, 0.3  # times the noise; nats per token


def _type_of(info: TensorInfo, level: str) -> str:
    """The probe's type for a tensor: ``level``, or a type with blocks of 32 where its rows hold no K type."""
    return level if info.accepts(qtype(level)) else _BLOCKS_OF_32[level]


def judge_of(stages: Stages, name: str, values: Mapping[str, object], model: Model, n_ctx: int, n_tokens: int) -> StagePlugin:
    """The named evaluator; ``auto`` is torch where there is an HF folder to load, else llama-perplexity.

    Raises PluginError for a plugin that evaluates nothing, ConfigError for options that it does not have.
    """
    if name == "auto":
        name = "torch" if model.hf is not None else "llama-perplexity"
    try:
        known = stages.option_names("evaluate", name)
    except PluginError as error:
        raise PluginError(f"{str(error).rpartition(';')[0] or error}; name another with estimate.options.evaluator") from None
    return stages.plugin("evaluate", name, {**_little_text(known, n_ctx, n_tokens), **values})


def _little_text(known: Any, n_ctx: int, n_tokens: int) -> dict[str, Any]:
    """The amount of text under whichever names the evaluator has for it; the reference's logits are kept between probes."""
    wanted = {"n_ctx": n_ctx, "n_tokens": n_tokens, "n_chunks": max(2, n_tokens // n_ctx), "keep_base": True}
    return {key: value for key, value in wanted.items() if key in known}


@dataclass(slots=True)
class Prober:
    """Measures probes of one model on one text with one evaluator."""

    model: Model
    architecture: Architecture
    unscaled: Sensitivity
    text: Corpus
    judge: StagePlugin
    stages: Stages
    progress: Progress
    folder: Path  # for the probe's file and what the evaluator keeps between probes: the reference's logits
    _seen: dict[str, str] = field(default_factory=dict)

    def noise_floor(self) -> float:
        """The KLD that the evaluator sees between the source and itself: llama-perplexity stores 16-bit log-probabilities."""
        kld, _ = self._kld({})
        self.progress.say(f"kld-probe: noise floor {kld:.2g} nats/token")
        return max(0.0, kld)

    def measure(self, group: ProbeGroup, floor: float) -> Measured:
        """The group's probe, at a lower or a higher type where the first one drowns in noise or leaves the quadratic model."""
        measured = self._measure(group, _TYPES[_FIRST], floor)
        if measured.kld < _TOO_SMALL * max(measured.se, floor):
            measured = self._measure(group, _TYPES[_FIRST - 1], floor)
        elif measured.kld > _TOO_LARGE:
            measured = self._measure(group, _TYPES[_FIRST + 1], floor)
        return measured

    def _measure(self, group: ProbeGroup, level: str, floor: float) -> Measured:
        types = {name: _type_of(self.model.tensors[name], level) for name in group.tensors}
        kld, se = self._kld(types)
        error = sum(self._error(name, q) for name, q in types.items())
        self.progress.say(f"kld-probe: {group.name} at {level}: {kld:.3g} +- {se:.1g} nats/token")
        return Measured(kld - floor, se, error)

    def _error(self, name: str, q: str) -> float:
        """1/2 sum_ij share_i in_power_j D_ij^2 of one tensor."""
        metric = self.stages.plugin("measure", _METRIC, {})
        table = metric(model=OneTensor(self.model, name), sensitivity=self.unscaled, qtypes=(qtype(q),))
        return float(table.costs[name][q].cost)

    def _kld(self, types: dict[str, str]) -> tuple[float, float]:
        """(mean KLD, standard error) of the source with these tensors at these types."""
        if not self._seen:
            self._seen = self._parts()
        parts = {**self._seen, "types": types}
        path = cache_folder() / "probes" / f"{digest_of(parts)[:32]}.json"

        def measure(_: str) -> tuple[float, float]:
            evaluation = self._evaluate(types)
            return evaluation.mean_kld, evaluation.se_kld

        return Artefact("probe", path, parts, _save, _load).get(measure)

    def _parts(self) -> dict[str, str]:
        """What every probe depends on, but for its types."""
        powers = hashlib.sha256(b"".join(self.unscaled.tensors[name].imatrix.tobytes() for name in sorted(self.unscaled.tensors)))
        return {
            "source": self.model.fingerprint,
            "text": Corpus.fingerprint(self.text.evaluation),
            "judge": self.judge.label,
            "imatrix": powers.hexdigest(),
            "kernels": library().fingerprint,
        }

    def _evaluate(self, types: dict[str, str]) -> Evaluation:
        path, *_ = self.stages.plugin("export", _EXPORTER, {})(
            model=self.model,
            architecture=self.architecture,
            allocation=Allocation(types),
            sensitivity=self.unscaled,
            corpus=self.text,
            out=self.folder,
            stem="probe",
            progress=Silent(),
        )
        progress = Silent() if types else self.progress  # the first says what disk and time each takes; the others would repeat it
        try:
            found: list[Evaluation] = self.judge(
                reference=self.model,
                candidates=[GgufModel(path, self.model.hf)],
                architecture=self.architecture,
                corpus=self.text,
                progress=progress,
            )
            return found[0]
        finally:
            path.unlink()


def _save(found: tuple[float, float], path: Path) -> None:
    write_json(path, {"kld": found[0], "se": found[1]})


def _load(path: Path) -> tuple[float, float] | None:
    """What was kept; None for a file that is damaged: then the probe is measured again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return float(known["kld"]), float(known["se"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""One probe: a file in which one group of tensors has a low type and all others are as in the source, and its measured KLD.

Every finished probe is kept in the cache under all that it depends on: a killed run, or another run on the same model, measures no
probe twice.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from bitclass3_gguf import Options as ExportOptions
from bitclass3_gguf import write_file
from bitclass3_weighted_error import Options as ErrorOptions
from bitclass3_weighted_error import bitclass3_measure

from bitclass3_core.corpus import Corpus
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import digest_of, write_json
from bitclass3_core.gguf.kernels import library
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture, Model, OneTensor, TensorInfo
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress, Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.toolchain.places import cache_folder
from bitclass3_kld_probe.fitting import Measured
from bitclass3_kld_probe.groups import ProbeGroup
from bitclass3_kld_probe.judging import Judge

# Low enough to stand out from the noise, high enough for the quadratic model: a probe that does neither moves one step.
_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K")
_FIRST = 1
_BLOCKS_OF_32 = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q4_1", "Q6_K": "Q5_1"}
_ERROR_OPTIONS = ErrorOptions.model_validate({})
_EXPORT_OPTIONS = ExportOptions.model_validate({})
_TOO_SMALL, _TOO_LARGE = 3.0, 0.3  # times the noise; nats per token


def _type_of(info: TensorInfo, level: str) -> str:
    """The probe's type for a tensor: ``level``, or a type with blocks of 32 where its rows hold no K type."""
    return level if info.accepts(qtype(level)) else _BLOCKS_OF_32[level]


@dataclass(slots=True)
class Prober:
    """Measures probes of one model on one text with one evaluator."""

    model: Model
    architecture: Architecture
    unscaled: Sensitivity
    text: Corpus
    judge: Judge
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
        view = OneTensor(self.model, name)
        table = bitclass3_measure(model=view, sensitivity=self.unscaled, qtypes=(qtype(q),), options=_ERROR_OPTIONS)
        return float(table.costs[name][q].cost)

    def _kld(self, types: dict[str, str]) -> tuple[float, float]:
        """(mean KLD, standard error) of the source with these tensors at these types."""
        place = cache_folder() / "probes" / f"{self._digest(types)}.json"
        try:
            known = json.loads(place.read_text(encoding="utf-8"))
            return float(known["kld"]), float(known["se"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        evaluation = self._evaluate(types)
        write_json(place, {"kld": evaluation.mean_kld, "se": evaluation.se_kld})
        return evaluation.mean_kld, evaluation.se_kld

    def _digest(self, types: dict[str, str]) -> str:
        if not self._seen:
            powers = hashlib.sha256(
                b"".join(self.unscaled.tensors[name].imatrix.tobytes() for name in sorted(self.unscaled.tensors))
            )
            self._seen = {
                "source": self.model.fingerprint,
                "text": Corpus.fingerprint(self.text.evaluation),
                "judge": self.judge.identity,
                "imatrix": powers.hexdigest(),
                "kernels": library().fingerprint,
            }
        return digest_of({**self._seen, "types": types})[:32]

    def _evaluate(self, types: dict[str, str]) -> Evaluation:
        path, *_ = write_file(
            model=self.model,
            allocation=Allocation(types),
            sensitivity=self.unscaled,
            out=self.folder,
            stem="probe",
            options=_EXPORT_OPTIONS,
            progress=Silent(),
        )
        progress = Silent() if types else self.progress  # the first says what disk and time each takes; the others would repeat it
        try:
            return self.judge(self.model, [GgufModel(path, self.model.hf)], self.architecture, self.text, progress)[0]
        finally:
            path.unlink()

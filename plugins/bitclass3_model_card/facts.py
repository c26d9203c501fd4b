"""Facts of a run that several sections of the card need."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitclass3_core.layout import data_bytes
from bitclass3_core.model import TensorInfo
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Candidate, Run


def file_name(candidate: Candidate) -> str:
    """The name of the candidate's file, or the candidate's name if no file was written."""
    return candidate.path.name if candidate.path else candidate.name


def stock_at_same_size(run: Run) -> Candidate | None:
    """The stock mix whose file is nearest in size to ours; None if the run has no stock mix."""
    mixes = [candidate for candidate in run.candidates[1:] if candidate.kind == "stock"]
    return min(mixes, key=lambda mix: abs(mix.file_bytes - run.ours.file_bytes), default=None)


def source_bytes(run: Run) -> int:
    """Bytes of the source: of its file, or of its tensors if it is split into several files."""
    path = run.model.path
    return max(path.stat().st_size if path.is_file() else 0, data_bytes(run.model, {}))


def source_qtype(run: Run) -> str:
    """The type in which the source keeps most of its weights."""
    weights: dict[str, int] = defaultdict(int)
    for info in run.model.tensors.values():
        weights[info.dtype] += info.n_params
    return max(weights, key=lambda dtype: weights[dtype])


def stage_plugin(run: Run, stage: str) -> str:
    """The plugin that the run's configuration names for a stage; empty if it does not say."""
    section = run.config.get(stage)
    plugin = section.get("plugin") if isinstance(section, Mapping) else None
    return ", ".join(plugin) if isinstance(plugin, list) else str(plugin or "")


def text_value(metadata: Mapping[str, Any], key: str) -> str:
    """A metadata string on one line; empty if it is missing or no string."""
    value = metadata.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Role:
    """All tensors of one role that the allocation gives a type."""

    name: str
    infos: tuple[TensorInfo, ...]

    @property
    def n_params(self) -> int:
        """Number of weights of the role."""
        return sum(info.n_params for info in self.infos)

    def bpw(self, qtypes: Mapping[str, str]) -> float:
        """Bits per weight that an allocation gives the role."""
        return 8 * sum(info.n_bytes(qtype(qtypes[info.name])) for info in self.infos) / self.n_params

    def mean(self, values: Mapping[str, float]) -> float | None:
        """Mean over the role's tensors that have a value; None if none has."""
        known = [values[info.name] for info in self.infos if info.name in values]
        return sum(known) / len(known) if known else None


def roles(run: Run) -> list[Role]:
    """Roles of the tensors in our allocation, by name."""
    found: dict[str, list[TensorInfo]] = defaultdict(list)
    for name in run.ours.allocation.qtypes:
        if name in run.model.tensors:
            found[run.model.tensors[name].role].append(run.model.tensors[name])
    return [Role(name, tuple(infos)) for name, infos in sorted(found.items())]

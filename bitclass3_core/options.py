"""What the options of a plugin may tell the core, beside their values.

A plugin's options class may be any pydantic class; one that has something to tell declares the attributes of ``PluginOptions`` under
the same names, by inheriting from it or by itself. Where it does not, the values here count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from bitclass3_core.model import TensorInfo
from bitclass3_core.qtypes import QType


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage of a run is given to do: tensors, the types at which each is measured, and files to write or to evaluate."""

    tensors: Mapping[str, TensorInfo]
    wanted: Mapping[str, tuple[QType, ...]] = field(default_factory=dict)
    n_files: int = 1

    @property
    def n_params(self) -> int:
        """Weights of the model."""
        return sum(info.n_params for info in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Demands:
    """What some work takes: floating-point operations of matrix products, seconds of one core for all else, bytes of memory."""

    operations: float = 0.0
    core_seconds: float = 0.0
    n_bytes: int = 0


class PluginOptions(BaseModel):
    """A plugin's options: unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Option values by effort (``normal``, ``high``): they stand where the user does not say otherwise.
    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Whether an estimator gives costs of the calibration text. Where candidates are compared, half of that text is then kept apart for
    # the imatrix: a file must not be rounded with the weights of the very text that it was chosen for.
    reads_text: ClassVar[bool] = False

    def demands(self, work: Work) -> Demands:  # noqa: ARG002
        """What the plugin takes for ``work``: what ``bitclass3 plan`` adds up."""
        return Demands()

    @classmethod
    def as_baseline(cls, ftype: str | None) -> Mapping[str, Any]:  # noqa: ARG003
        """Option values with which a solver gives the allocation to compare with; ``ftype`` is the mix whose size was asked for, if any."""
        return {}

    def placed_in(self, folder: Path) -> BaseModel:  # noqa: ARG002
        """The same options, with large temporary files in ``folder`` unless the user named another place."""
        return self


def reads_text(options: BaseModel | None) -> bool:
    """Whether an estimator with these options declares that it gives costs of the calibration text."""
    return bool(getattr(options, "reads_text", PluginOptions.reads_text))


def demands_of(options: BaseModel | None, work: Work) -> Demands:
    """What a plugin with these options says that ``work`` takes; nothing where it says nothing.

    Of plugin API 1 is also a method ``demands(n_params)`` of any class, which answers operations and bytes.
    """
    if isinstance(options, PluginOptions):
        return options.demands(work)
    says: Callable[[int], tuple[float, int]] | None = getattr(options, "demands", None)
    if says is None:
        return Demands()
    operations, n_bytes = says(work.n_params)
    return Demands(operations, n_bytes=n_bytes)

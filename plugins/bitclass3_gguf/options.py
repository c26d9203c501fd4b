"""Options of the exporter."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bitclass3_torch import WEIGHT_BYTES
from pydantic import Field

from bitclass3_core.options import Demands, PluginOptions, Work

ANSWERS = "00d380a4f0bd"  # version of this plugin's answers: changes when they do
_FEEDBACK_PASSES = 2.5  # what moments and rounding take, in passes forward and backward (docs/benchmarks.md)


class Options(PluginOptions):
    """How the file is written, and how its weights are rounded."""

    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "normal": {"rounding": "feedback"},
        "high": {"rounding": "feedback", "tuning_steps": 96},
    }

    threads: int = Field(0, ge=0, description="0: all cores")
    rounding: Literal["plain", "feedback"] = Field(
        "plain",
        description="plain: as llama-quantize; feedback: later columns make up for each column's error (needs the HF folder and text)",
    )
    n_tokens: int = Field(16384, gt=0, description="feedback: calibration tokens")
    n_ctx: int = Field(512, gt=1, description="feedback and tuning: tokens a chunk")
    seed: int = Field(0, description="feedback: of the sampled labels")
    rounds: int = Field(2, ge=0, description="feedback: how often every code is chosen again")
    memory_gib: float = Field(
        4.0,
        gt=0,
        description="feedback: memory for the second moments, and as much again for tensors in work; less means more passes",
    )
    keep_rounded: bool = Field(
        False, description="feedback: leave the rounded tensors in the run's folder, for another export of the same types"
    )
    tuning_steps: int = Field(
        0,
        ge=0,
        description="steps, each over one chunk, in which the scales of all blocks are tuned to the source's predictions; 0: none",
    )
    tuning_rate: float = Field(1e-4, gt=0, le=0.1, description="tuning: about the relative change of a scale in one step")
    device: str = Field("auto", description="feedback and tuning: auto, cpu, cuda, cuda:1, mps")
    dtype: str = Field(
        "auto", description="feedback and tuning: auto (float32 on the CPU, bfloat16 on a GPU), float32, bfloat16, float16"
    )

    def demands(self, work: Work) -> Demands:
        """What rounding and tuning take: 6 operations a weight and token forward and backward, 2 forward.

        Tuning holds what the factors multiply, in float32, and the file; feedback the second moments.
        """
        operations, n_bytes, n_params = 0.0, 0, work.n_params
        if self.rounding == "feedback":
            operations += _FEEDBACK_PASSES * 6 * self.n_tokens * n_params
            n_bytes = 2 * int(self.memory_gib * 2**30)
        if self.tuning_steps:
            operations += (6 + 2) * self.tuning_steps * self.n_ctx * n_params
            n_bytes = max(n_bytes, 8 * n_params)
        return Demands(operations, n_bytes=n_bytes + WEIGHT_BYTES * n_params if n_bytes else 0)

"""Options of the exporter."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """How the file is written, and how its weights are rounded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int = Field(0, ge=0, description="0: all cores")
    rounding: Literal["plain", "feedback"] = Field(
        "plain", description="plain: as llama-quantize; feedback: columns take up each other's error (needs the HF folder and text)"
    )
    n_tokens: int = Field(16384, gt=0, description="feedback: calibration tokens")
    n_ctx: int = Field(512, gt=1, description="feedback: tokens a chunk")
    seed: int = Field(0, description="feedback: of the sampled labels")
    rounds: int = Field(2, ge=0, description="feedback: how often every code is looked at again")
    memory_gib: float = Field(
        4.0, gt=0, description="feedback: memory for the second moments; less means more passes forward and backward"
    )
    device: str = Field("auto", description="feedback: auto, cpu, cuda, cuda:1, mps")

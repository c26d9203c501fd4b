"""A budget that the user fixes: bits per weight, a file size, the size of one of llama.cpp's own mixes or of another file."""

from pathlib import Path

from bitclass3_stock import stock_qtypes
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bitclass3_core import hookimpl
from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.layout import Budget, budget_for_bpw, budget_for_file, data_bytes, parse_size
from bitclass3_core.model import Architecture, Model


class Options(BaseModel):
    """Exactly one target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target_bpw: float | None = Field(None, gt=0, description="bits per weight over all tensors, metadata left out")
    target_size: str | int | None = Field(None, description="size of the whole file, metadata included: 15.3GiB, 4200MB, bytes")
    match_stock: str | None = Field(None, description="at most the size of that stock mix: Q4_K_M")
    match_file: Path | None = Field(None, description="at most the tensors' bytes of that GGUF")

    @model_validator(mode="after")
    def _one_target(self) -> "Options":
        given = [name for name in ("target_bpw", "target_size", "match_stock", "match_file") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one target, not {len(given)} ({', '.join(given)})")
        return self


@hookimpl
def bitclass3_budget(model: Model, architecture: Architecture, options: Options) -> Budget:
    """The budget of the one target that was given. Raises ConfigError if there is none."""
    if options.target_bpw is not None:
        return budget_for_bpw(model, options.target_bpw)
    if options.target_size is not None:
        return budget_for_file(model, parse_size(options.target_size), str(options.target_size).replace(" ", ""))
    if options.match_stock is not None:
        qtypes = stock_qtypes(model, architecture.quantizable, options.match_stock)
        return Budget(data_bytes(model, qtypes), f"bitclass3-{options.match_stock.upper()}")
    if options.match_file is not None:
        return Budget(data_bytes(GgufModel(options.match_file), {}), f"like-{options.match_file.stem}")
    raise ConfigError("no target; give --target-bpw 4.8, --target-size 15.3GiB or --match-stock Q4_K_M")

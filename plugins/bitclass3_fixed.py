"""A budget that the user fixes: bits per weight, a file size, the size of a stock mix or of another file, or what a GPU holds."""

from pathlib import Path

from bitclass3_stock import stock_qtypes
from pydantic import Field, model_validator

from bitclass3_core import hookimpl
from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.files import human_bytes
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.vram import memory_of
from bitclass3_core.layout import Budget, budget_for_bpw, budget_for_file, data_bytes, parse_size
from bitclass3_core.model import Architecture, Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.targets import FIXED_TARGETS

BITCLASS3_ANSWERS = "89de85dbf71f"  # changes when the answers do


class Options(PluginOptions):
    """Exactly one target."""

    target_bpw: float | None = Field(None, gt=0, description="bits per weight over all tensors, metadata left out")
    target_size: str | int | None = Field(None, description="size of the whole file, metadata included: 15.3GiB, 4200MB, bytes")
    match_stock: str | None = Field(None, description="at most the size of that stock mix: Q4_K_M")
    match_file: Path | None = Field(None, description="at most the tensors' bytes of that GGUF")
    fit_vram: str | int | None = Field(None, description="memory that weights, KV cache, state and buffers must fit into: 24GiB")
    ctx: int = Field(8192, gt=0, description="with fit_vram: tokens of context")
    kv_type: str = Field("f16", description="with fit_vram: type of the KV cache: f16, q8_0, q4_0")
    vram_reserve: str | int = Field("512MiB", description="with fit_vram: for the driver and other programs")

    @model_validator(mode="after")
    def _one_target(self) -> "Options":
        given = [name for name in FIXED_TARGETS if getattr(self, name) is not None]
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
    if options.fit_vram is not None:
        return _budget_for_vram(model, options)
    raise ConfigError(
        "no target; give --target-bpw 4.8, --target-size 15.3GiB, --level Q4_K_M, --match-stock Q4_K_M, --fit-vram 24GiB or --target-kld 0.03"
    )


def _budget_for_vram(model: Model, options: Options) -> Budget:
    """The bytes that a GPU has for weights.

    An untied token_embd counts too: llama.cpp keeps it in main memory, but its size is not known before its type.
    Raises InfeasibleError if nothing is left for weights.
    """
    vram, reserve = parse_size(str(options.fit_vram)), parse_size(options.vram_reserve)
    memory = memory_of(model, options.ctx, options.kv_type)
    left = vram - reserve - memory.total
    if left <= 0:
        raise InfeasibleError(
            f"{human_bytes(vram)} leaves nothing for weights: KV cache {human_bytes(memory.kv_bytes)} ({options.ctx} tokens, "
            f"{options.kv_type}), state {human_bytes(memory.state_bytes)}, buffers {human_bytes(memory.compute_bytes)}, reserve "
            f"{human_bytes(reserve)}; lower --ctx, or take --kv-type q8_0"
        )
    return Budget(min(left, data_bytes(model, {})), f"{str(options.fit_vram).replace(' ', '')}-{options.ctx}ctx")

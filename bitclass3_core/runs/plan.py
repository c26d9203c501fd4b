"""What a run would do and take, without writing anything."""

from typing import Any

from bitclass3_core.constraints.problem import possible_bytes
from bitclass3_core.gguf.kernels import SPEED
from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.layout import file_bytes
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import menu
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.pipeline import Pipeline
from bitclass3_core.runs.select import files_beside

# what weighted-error measures of a tensor by default
_SAMPLED_ROWS, _WHOLE_WEIGHTS = 128, 1 << 19
_FLOPS_PER_CORE = 30e9  # of float32 matrix products, a cautious guess


def _measure_seconds(pipeline: Pipeline) -> float:
    seconds = 0.0
    for name, types in pipeline.wanted.items():
        info = pipeline.model.tensors[name]
        n_weights = min(info.n_params, max(_WHOLE_WEIGHTS, _SAMPLED_ROWS * info.n_in))
        seconds += info.n_params / (SPEED["Q8_0"] * 1e6) + sum(n_weights / (SPEED.get(q.name, 5) * 1e6) for q in types)
    return seconds / pipeline.threads


def _torch_seconds(config: RunConfig, n_params: int, threads: int) -> float:
    """6 operations a weight and token with a backward pass, 2 for each forward pass of the evaluation (source, ours, stock, mixes)."""
    calibration = config.estimate.options.get("n_tokens", 16384) if config.estimate.plugin in ("kl-hessian", "hessian-diag") else 0
    evaluation = config.evaluate.options.get("n_tokens", 32768) if config.evaluate.plugin == "torch" else 0
    n_passes = 3 + (config.select.mixes if config.select.enabled else 0)
    return (6 * calibration + n_passes * 2 * evaluation) * n_params / (_FLOPS_PER_CORE * threads)


def plan_values(config: RunConfig) -> dict[str, Any]:
    """What ``plan --json`` prints. Raises the errors that the run would raise before measuring."""
    pipeline = Pipeline(config, Silent(), "plan", may_convert=False)
    pipeline.stages.load_all()
    model, architecture, threads = pipeline.model, pipeline.architecture, pipeline.threads
    qtypes = menu(config.qtypes.menu)
    header = header_bytes(model)
    possible = possible_bytes(model, architecture, qtypes, pipeline.limits)
    if not pipeline.stages.budget_needs_sensitivity():
        pipeline.check_target()
    n_params = sum(info.n_params for info in model.tensors.values())
    operations, export_bytes = pipeline.stages.export_demands(n_params)
    seconds = _measure_seconds(pipeline) + _torch_seconds(config, n_params, threads) + operations / (_FLOPS_PER_CORE * threads)
    values: dict[str, Any] = {
        "source": str(model.path),
        "architecture": model.arch,
        "tensors": len(model.tensors),
        "quantizable_tensors": len(architecture.quantizable),
        "weights": n_params,
        "smallest_file_bytes": header + possible.smallest,
        "largest_file_bytes": header + possible.largest,
        "constraints": pipeline.described,
        "costs_to_measure": sum(len(types) for types in pipeline.wanted.values()),
        "threads": threads,
        "memory_bytes": (6 * n_params if config.estimate.plugin in ("kl-hessian", "hessian-diag") else 0) + export_bytes,
        "minutes": round(seconds / 60, 1),
        "quantizable": sorted(architecture.quantizable),
    }
    if pipeline.is_measured and config.budget.target_kld is None:
        values["costs_to_measure"] = 0
        known = dict(pipeline.allocation.qtypes)
        values["allocation"] = known
        values["file_bytes"] = file_bytes(model, known)
    largest = values.get("file_bytes", header + possible.largest)
    values["disk_bytes"] = (1 + files_beside(config)) * largest
    return values

"""What a run would do and take, without writing anything."""

from typing import Any

from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.layout import file_bytes
from bitclass3_core.machine import default_threads
from bitclass3_core.model import total_params
from bitclass3_core.options import Work
from bitclass3_core.progress import Silent
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import Pipeline
from bitclass3_core.runs.select import files_beside

_FLOPS_PER_CORE = 30e9  # of float32 matrix products, a cautious guess


def plan_values(config: RunConfig) -> dict[str, Any]:
    """What ``plan --json`` prints. Raises the errors that the run would raise before measuring."""
    pipeline = Pipeline(config, Context.of(config, Silent(), "plan", may_convert=False))
    pipeline.stages.load_all()
    model, architecture = pipeline.model, pipeline.architecture
    header, possible = header_bytes(model), pipeline.inputs.possible_bytes
    if pipeline.has_known_target:
        pipeline.check_target()
    threads = default_threads(config.threads)
    n_mixes = config.select.mixes if config.select.enabled else 0
    demands = pipeline.stages.demands(Work(model.tensors, pipeline.inputs.wanted, n_files=2 + n_mixes))
    seconds = (demands.core_seconds + demands.operations / _FLOPS_PER_CORE) / threads
    values: dict[str, Any] = {
        "source": str(model.path),
        "architecture": model.arch,
        "tensors": len(model.tensors),
        "quantizable_tensors": len(architecture.quantizable),
        "weights": total_params(model),
        "smallest_file_bytes": header + possible.smallest,
        "largest_file_bytes": header + possible.largest,
        "constraints": pipeline.inputs.constraints,
        "costs_to_measure": sum(len(types) for types in pipeline.inputs.wanted.values()),
        "threads": threads,
        "memory_bytes": demands.n_bytes,
        "minutes": round(seconds / 60, 1),
        "quantizable": sorted(architecture.quantizable),
    }
    if config.budget.target_kld is None and pipeline.is_measured:
        values["costs_to_measure"] = 0
        known = dict(pipeline.allocation.qtypes)
        values["allocation"] = known
        values["file_bytes"] = file_bytes(model, known)
    largest = values.get("file_bytes", header + possible.largest)
    values["disk_bytes"] = (1 + files_beside(config)) * largest
    return values

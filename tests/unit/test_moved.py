"""Names from before the core had rooms: plugins of others import them, for as long as there is plugin API 1."""

import importlib

import pytest

from bitclass3_core.hookspecs import OLDEST_API

# module: the names that it had, and where each is now
MOVED = {
    "kernels": ("gguf.kernels", ("library", "quantize", "dequantize")),
    "naming": ("gguf.names", ("hf_stems", "quantizable_tensors", "fragile_floors", "metadata_int", "blocks_of", "swapped_groups")),
    "gguf_model": ("gguf.model", ("GgufModel", "quantized_share", "split_files", "total_file_bytes")),
    "plugins": (
        "plugin.manager",
        ("GROUP", "STAGES", "Plugin", "PluginManager", "installed", "load_plugin", "plugin_of", "parse_options"),
    ),
    "at_work": ("plugin.at_work", ("AtWork", "at_work", "all_at_work", "where", "working")),
    "multiple_choice": ("knapsack.dual", ("Dual", "Tables", "lagrangian_dual", "proof_of", "reduced_costs", "tables_of")),
    "improving": ("knapsack.improve", ("best_effort", "fill", "swapped")),
    "schema": ("runs.schema", ("pipeline_schema", "schema_json")),
    "measuring": ("model", ("OneTensor",)),
}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_new_thing(old: str) -> None:
    new, names = MOVED[old]
    before, now = (importlib.import_module(f"bitclass3_core.{module}") for module in (old, new))
    assert OLDEST_API == 1  # else these modules can go
    for name in names:
        assert getattr(before, name) is getattr(now, name)
        assert name in before.__all__


def test_measuring_is_in_several_places_now() -> None:
    measuring, wanted, machine = (
        importlib.import_module(f"bitclass3_core.{name}") for name in ("measuring", "constraints.wanted", "machine")
    )
    assert measuring.wanted_cells is wanted.wanted_cells
    assert measuring.default_threads is machine.default_threads

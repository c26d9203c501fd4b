"""The small commands, and that help is quick because nothing heavy is imported for it."""

import json
import subprocess
import sys

from command import bitclass3


def test_plugins_list_names_every_built_in() -> None:
    names = {row["name"] for row in json.loads(bitclass3("plugins", "list", "--json").out)}
    assert {
        "kl-hessian",
        "hessian-diag",
        "imatrix",
        "uniform",
        "weighted-error",
        "fixed",
        "ilp",
        "lagrangian",
        "greedy",
        "stock",
    } <= names
    assert {"gguf", "recipe", "llama-quantize", "torch", "model-card", "plots", "qwen35", "qwen3", "llama", "generic"} <= names


def test_plugins_show_prints_options_with_defaults() -> None:
    shown = json.loads(bitclass3("plugins", "show", "ilp", "--json").out)
    assert shown["stages"]["solve"]["time_limit_seconds"]["default"] == 30.0
    assert "[estimate] plugin = 'kl-hessian'" in bitclass3("plugins", "show", "kl-hessian").out


def test_every_installed_plugin_can_be_shown() -> None:
    for row in json.loads(bitclass3("plugins", "list", "--json").out):
        done = bitclass3("plugins", "show", row["name"])
        assert done.code == 0, done.err


def test_doctor_reports_kernels_and_torch() -> None:
    checks = json.loads(bitclass3("doctor", "--json").out)["checks"]
    assert checks["ggml kernels"]["ok"]
    assert "torch" in checks["torch"]["detail"]


def test_help_and_core_import_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'ortools', 'matplotlib', 'gguf'}"
    code = f"import sys; import bitclass3_core.cli.app; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = f"import sys; import bitclass3_core.runs.pipeline; sys.exit(bool(({heavy} - {{'gguf'}}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "Usage" in bitclass3("--help").out


def test_unknown_command_is_bad_usage() -> None:
    assert bitclass3("rnu").code == 2

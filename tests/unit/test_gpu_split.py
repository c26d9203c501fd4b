"""What lies on the GPU, and the -ot argument that says so to llama.cpp."""

import re

import pytest
from gguf_files import memory_model

from bitclass3_core.constraints.gpu import gpu_of, override_argument, write_override
from bitclass3_core.errors import ConfigError

MOE = memory_model(
    token_embd=(64, 256),
    output=(64, 256),
    output_norm=(256,),
    blk__0__attn_q=(32, 256),
    blk__0__ffn_up_exps=(4, 32, 256),
    blk__0__ffn_down_exps=(4, 256, 32),
    blk__0__ffn_up_shexp=(32, 256),
    blk__1__attn_q=(32, 256),
    blk__1__ffn_up_exps=(4, 32, 256),
    blk__1__ffn_down_exps=(4, 256, 32),
    blk__10__ffn_up_exps=(4, 32, 256),
)
TIED = memory_model(token_embd=(64, 256), blk__0__attn_q=(32, 256))


def placed(model, argument):
    """The tensors that the argument sends to the CPU, read as llama.cpp does: split at commas, searched in order."""
    patterns = [part.rpartition("=") for part in argument.split(",")] if argument else []
    assert all(buffer == "CPU" for _, _, buffer in patterns)
    return {name for name in model.tensors if any(re.search(pattern, name) for pattern, _, _ in patterns)}


def experts(model):
    return {name for name in model.tensors if "_exps" in name}


def test_by_default_all_but_experts_and_the_embedding():
    gpu = gpu_of(MOE, "1MiB", [])
    assert gpu.tensors == set(MOE.tensors) - experts(MOE) - {"token_embd.weight"}
    assert (gpu.budget_bytes, gpu.label) == (1 << 20, "1MiB")
    argument = override_argument(MOE, gpu.tensors)
    assert argument == r"^blk\.\d+\.ffn_up_exps\.weight$=CPU,^blk\.\d+\.ffn_down_exps\.weight$=CPU"
    assert placed(MOE, argument) == experts(MOE)


def test_a_tied_embedding_is_on_the_gpu_too():
    gpu = gpu_of(TIED, 4096, [])
    assert gpu.tensors == set(TIED.tensors)
    assert override_argument(TIED, gpu.tensors) == ""


@pytest.mark.parametrize("patterns", [[r"blk\.1\."], [r"blk\.(0|10)\.", "output"], ["attn", "shexp"], ["exps"]])
def test_the_argument_sends_all_others_to_the_cpu(patterns):
    gpu = gpu_of(MOE, 4096, patterns)
    assert gpu.tensors == {name for name in MOE.tensors if any(re.search(p, name) for p in patterns)} - {"token_embd.weight"}
    assert placed(MOE, override_argument(MOE, gpu.tensors)) == set(MOE.tensors) - gpu.tensors - {"token_embd.weight"}


def test_bytes_on_the_gpu_are_those_of_the_file():
    gpu = gpu_of(MOE, "1MiB", ["attn_q", "output_norm"])
    assert gpu.bytes_of(MOE, {"blk.0.attn_q.weight": "Q4_K"}) == 32 * 144 + 32 * 512 + 512


def test_the_file_beside_the_gguf(tmp_path):
    write_override(tmp_path, "model-4.80bpw", MOE, None)
    assert list(tmp_path.iterdir()) == []
    write_override(tmp_path, "model-4.80bpw", MOE, gpu_of(MOE, 4096, ["attn"]))
    text = (tmp_path / "model-4.80bpw.override_tensor.txt").read_text()
    assert text.endswith("=CPU\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("budget", "patterns", "message"),
    [
        ("24 gigs", [], "size '24 gigs' is not understood"),
        (None, ["attn"], "tensors for the GPU were named without a budget; give --gpu-budget 24GiB"),
        ("1GiB", ["attn_v"], "GPU pattern 'attn_v' matches none of the 11 tensors"),
        ("1GiB", ["blk.("], r"GPU pattern 'blk\.\(' is no regular expression"),
    ],
)
def test_bad_splits(budget, patterns, message):
    with pytest.raises(ConfigError, match=message):
        gpu_of(MOE, budget, patterns)


def test_without_a_budget_there_is_no_split():
    assert gpu_of(MOE, None, []) is None

"""Constraints from the command line to the file: kept in every tensor, shown in run.json, refused where they contradict."""

import json
from pathlib import Path

from command import GGUF, TEXT, Done, bitclass3

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import padded
from bitclass3_core.qtypes import qtype

FAST = ["--model", GGUF, *TEXT, "--plugin", "uniform", "--menu", "k"]  # no torch


def uniform(out: Path, *arguments: object) -> Done:
    return bitclass3("run", *FAST, "--target-bpw", 4.8, "--until", "export", "--baseline", "none", "--out", out, *arguments)


def test_every_tensor_keeps_what_was_asked(tmp_path: Path) -> None:
    split = ["--gpu-budget", "1700KB", "--gpu-tensors", r"^blk\.[0-3]\."]
    limits = ["--pin", "token_embd=Q6_K", "--floor", "ffn_down=Q5_K", "--group", "gate_up", "--menu", "attn_(q|k)=Q4_0,Q8_0"]
    done = uniform(tmp_path, *limits, *split)
    assert done.code == 0, done.err
    tensors = GgufModel(next(tmp_path.glob("model-*.gguf"))).tensors
    assert tensors["token_embd.weight"].dtype == "Q6_K"
    for name, info in tensors.items():
        if "ffn_down" in name:
            assert qtype(info.dtype).bpw >= 5.5
        if "ffn_gate.weight" in name:
            assert info.dtype == tensors[name.replace("gate", "up")].dtype
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            assert info.dtype in ("Q4_0", "Q8_0", "BF16")
    on_gpu = [info for info in tensors.values() if info.block is not None and info.block < 4]
    assert sum(padded(info.source_bytes) for info in on_gpu) <= 1_700_000
    override = (tmp_path / "model-4.80bpw.override_tensor.txt").read_text()
    assert r"^blk\.(4|5|6|7)\.ffn_down\.weight$=CPU" in override.split(",")
    asked = json.loads((tmp_path / "run.json").read_text())["constraints"]
    assert asked[0] == "pin 'token_embd' = Q6_K (1 tensor)"
    assert "GPU budget 1700KB" in asked[-1]


def test_contradictions_and_infeasible_targets_are_one_line(tmp_path: Path) -> None:
    done = uniform(tmp_path / "a", "--pin", "ffn_down=Q4_K", "--floor", "ffn=Q6_K")
    assert (done.code, "contradict each other" in done.error) == (2, True)
    done = bitclass3("run", *FAST, "--target-bpw", 3.6, "--until", "solve", "--out", tmp_path / "b", "--pin", "ffn=Q8_0")
    assert done.code == 3
    assert "what binds: pin 'ffn' = Q8_0 (without it" in done.error
    done = bitclass3("plan", *FAST, "--target-bpw", 4.8, "--out", tmp_path / "c", "--gpu-budget", "1MB")
    assert done.code == 3
    assert "budget of the GPU is 1,000,000 bytes" in done.error
    assert not (tmp_path / "c").exists()

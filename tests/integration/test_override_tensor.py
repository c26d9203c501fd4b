"""llama.cpp reads the -ot argument as it was meant: exactly the tensors that do not lie on the GPU are sent to the CPU."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bitclass3_core.constraints.gpu import gpu_of, override_argument
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import capture_program

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("family", "patterns"), [("qwen3moe", []), ("llama", [r"^blk\.0\.", "attn_k"])])
def test_llama_cpp_overrides_exactly_the_others(
    llama_cpp: Path, tiny: Callable[[str], Path], family: str, patterns: list[str]
) -> None:
    model = GgufModel(tiny(family))
    gpu = gpu_of(model, "1GiB", patterns)
    assert gpu is not None
    program = find_program("llama-completion", llama_cpp)
    argument = override_argument(model, gpu.tensors)
    command = [str(program.path), "-m", str(model.path), "-ngl", "999", "-ot", argument, "-p", "The", "-n", "1", "-no-cnv", "-v"]
    _, log = capture_program(command)
    overridden = set(re.findall(r"tensor (\S+) \(.*?\) buffer type overridden to CPU", log))
    others = set(model.tensors) - gpu.tensors - ({"token_embd.weight"} if "output.weight" in model.tensors else set())
    assert others
    assert overridden == others

"""Tiny models of every family, converted once for all tests that want them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from families import make_hf

from bitclass3_core.progress import Silent
from bitclass3_core.toolchain.converting import convert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, llama_cpp: Path) -> Callable[[str], Path]:
    """The BF16 GGUF of a family's tiny model, by llama.cpp's converter; its HF folder is the one that it lies in."""
    made: dict[str, Path] = {}

    def converted(name: str) -> Path:
        if name not in made:
            hf = make_hf(name, tmp_path_factory.mktemp("tiny") / name)
            made[name] = convert(hf, hf / f"{name}.gguf", Silent(), pre_tokenizer="gpt-2", llama_cpp=llama_cpp)
        return made[name]

    return converted

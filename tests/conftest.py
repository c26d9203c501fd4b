"""Stock llama.cpp for the tests that run it: the managed one, built once if it is not there yet."""

import sys
from pathlib import Path

import pytest
from command import bitclass3

BUILD_SECONDS = 40 * 60  # on two slow cores, with compilers that other tests slow down


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """The folder of the managed llama.cpp."""
    done = bitclass3("toolchain", "install", timeout=BUILD_SECONDS, env={"LLAMA_CPP_DIR": ""})
    assert done.code == 0, done.err
    print(done.err, file=sys.stderr)
    return Path(done.out.strip().splitlines()[-1])

"""Stock llama.cpp for the tests that run it: the managed one, built once if it is not there yet."""

import signal
import sys
from pathlib import Path

import pytest
from command import bitclass3

BUILD_SECONDS = 40 * 60  # on two slow cores, with compilers that other tests slow down


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would every program that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """The folder of the managed llama.cpp."""
    done = bitclass3("toolchain", "install", timeout=BUILD_SECONDS, env={"LLAMA_CPP_DIR": ""})
    assert done.code == 0, done.err
    print(done.err, file=sys.stderr)
    return Path(done.out.strip().splitlines()[-1])

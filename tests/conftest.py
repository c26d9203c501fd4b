"""What every test needs: a share of the machine for each worker, and stock llama.cpp for the tests that run it."""

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest
from command import bitclass3

# the same examples every time, so that a run tells of the change it is for; HYPOTHESIS_PROFILE=search looks for new ones
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", derandomize=False, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
BUILD_SECONDS = 40 * 60  # on two slow cores, with compilers that other tests slow down


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would every program that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        take_share_of_cores(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def take_share_of_cores(worker: int, workers: int) -> None:
    """Keep this worker, and all that its tests start, to cores of its own: threads that wait for each other spin."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker::workers] or {cores[worker % len(cores)]})


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """The folder of the managed llama.cpp: built once if it is not there yet, by one worker while the others wait."""
    done = bitclass3("toolchain", "install", timeout=BUILD_SECONDS, env={"LLAMA_CPP_DIR": ""})
    assert done.code == 0, done.err
    print(done.err, file=sys.stderr)
    return Path(done.out.strip().splitlines()[-1])

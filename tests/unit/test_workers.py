"""Tensors side by side: no more at a time than there are threads or memory for, and none lost."""

import threading
import time

import pytest
import torch
from bitclass3_gguf.workers import SLAB_ROWS, at_a_time, torch_threads, work_side_by_side, working_bytes

from bitclass3_core.model import TensorInfo

GIB = 2**30


def info(n_rows: int, n_in: int, n_experts: int = 1) -> TensorInfo:
    shape = (n_rows, n_in) if n_experts == 1 else (n_experts, n_rows, n_in)
    return TensorInfo("blk.0.ffn_down.weight", shape, "BF16")


def test_as_many_as_memory_allows_and_the_small_ones_first():
    found = at_a_time({"large": 5 * GIB, "half": 2 * GIB, "small": GIB // 8}, 4 * GIB, 16)
    assert found == {"small": 16, "half": 2, "large": 1}
    assert list(found) == ["small", "half", "large"]
    assert at_a_time({"small": 1}, GIB, 3) == {"small": 3}


def test_bytes_grow_with_what_is_held():
    """A down projection of a model with 8 billion weights takes 5 GiB, a table of many rows no more than its slab."""
    assert 4.5 * GIB < working_bytes(info(4096, 12288), 11585) < 5.5 * GIB
    assert working_bytes(info(150_000, 4096), 11585) == working_bytes(info(SLAB_ROWS, 4096), 0)
    assert working_bytes(info(1024, 2048, n_experts=64), 11585) < working_bytes(info(1024, 2048), 11585)


@pytest.mark.parametrize("n", [1, 3])
def test_never_more_at_a_time(n):
    lock, now, most, done = threading.Lock(), 0, 0, []

    def work(item: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
            done.append(item)

    taken = []
    work_side_by_side(work, (taken.append(i) or i for i in range(12)), n)
    assert most == n
    assert sorted(done) == taken == list(range(12))


def test_an_error_of_one_ends_it():
    def work(item: int) -> None:
        if item == 2:
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 2"):
        work_side_by_side(work, range(100), 2)


def test_torch_gets_its_threads_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before

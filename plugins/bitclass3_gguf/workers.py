"""Threads that round tensors side by side: as many as there are, or as the tensors' memory allows."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from bitclass3_core.model import TensorInfo

_Item = TypeVar("_Item")
SLAB_ROWS = 2048  # a slab's weights stay in the processor's cache while column after column is rounded
_SQUARE_BYTES = 4 + 4 + 2 * 8  # a column and column: A, U, and two matrices in double precision while U is made
_WEIGHT_BYTES = 8 * 4  # weights, what is left of them, rounded ones, codes, steps, offsets, slopes, differences


def working_bytes(info: TensorInfo, max_rows: int) -> int:
    """Bytes that the rounding of a tensor takes beside its moments.

    Up to ``max_rows`` rows of a tensor are rounded together, more in slabs.
    """
    n_rows = info.n_rows // info.n_experts
    together = n_rows <= max_rows and info.n_experts == 1
    held = n_rows if together else min(n_rows, SLAB_ROWS)
    return _SQUARE_BYTES * info.n_in**2 + _WEIGHT_BYTES * held * info.n_in + (4 * n_rows**2 if together else 0)


def at_a_time(sizes: Mapping[str, int], memory_bytes: int, n_threads: int) -> dict[str, int]:
    """How many tensors of each size may be under way at a time, by name. The tensors that keep all threads busy come first."""
    found = {name: max(1, min(n_threads, memory_bytes // max(size, 1))) for name, size in sizes.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def work_side_by_side(work: Callable[[_Item], None], items: Iterable[_Item], n_at_a_time: int) -> None:
    """Work on the items as they come, ``n_at_a_time`` in threads.

    Items are drawn only when there is work for them: the moments of a whole group, drawn at once, would take its memory twice.
    """
    with ThreadPoolExecutor(n_at_a_time) as pool:
        under_way: deque[Future[None]] = deque()
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > n_at_a_time:
                under_way.popleft().result()
        for left in under_way:
            left.result()


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """While open, torch uses ``n_threads`` of its own. More would wait for each other in thousands of small steps."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

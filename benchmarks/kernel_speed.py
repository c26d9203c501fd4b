"""Prints how fast one core quantizes to each type and multiplies with it, as a Markdown table: python benchmarks/kernel_speed.py.

``first row`` is what the first row of a type costs once in a process: ggml makes the tables of its lattices then. ``product`` is
ggml's CPU kernel (``vec_dot``) on data in the cache, ``reads`` the bytes of weights that it gets through: where that is less than a
core's share of the memory's bandwidth, tokens are generated at the kernel's speed and not at the memory's.
"""

import ctypes
import time
from collections.abc import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from bitclass3_core.gguf.kernels import library, quantize
from bitclass3_core.model import FloatArray
from bitclass3_core.qtypes import QType, menu

N_ROWS, N_IN = 64, 4096
SECONDS = 0.4  # of each measurement; the best of three counts
_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_FROM_FLOAT = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, ctypes.c_int64)
_VEC_DOT = ctypes.CFUNCTYPE(None, _INT, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE, _INT)


class CpuTraits(ctypes.Structure):
    """ggml's ``struct ggml_type_traits_cpu``."""

    _fields_ = (("from_float", _FROM_FLOAT), ("vec_dot", _VEC_DOT), ("vec_dot_type", _INT), ("nrows", ctypes.c_int64))


def best(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    found = []
    for _ in range(3):
        begin, n_calls = time.process_time(), 0
        while time.process_time() - begin < SECONDS / 3:
            work()
            n_calls += 1
        found.append((time.process_time() - begin) / n_calls)
    return min(found)


def product_seconds(cpu: ctypes.CDLL, q: QType, weights: FloatArray) -> float:
    """Seconds of one product of all ``weights``, one long row, with a vector."""
    traits = cpu.ggml_get_type_traits_cpu(q.ggml_id).contents
    block_size, type_size = GGML_QUANT_SIZES[GGMLQuantizationType(traits.vec_dot_type)]
    inputs = np.random.default_rng(1).standard_normal(weights.size).astype(np.float32)
    rounded = np.empty(weights.size // block_size * type_size, np.uint8)
    cpu.ggml_get_type_traits_cpu(traits.vec_dot_type).contents.from_float(inputs.ctypes.data, rounded.ctypes.data, weights.size)
    packed, answer = quantize(weights, q, np.ones(N_IN, np.float32)), np.zeros(1, np.float32)
    return best(lambda: traits.vec_dot(weights.size, answer.ctypes.data, 0, packed.ctypes.data, 0, rounded.ctypes.data, 0, 1))


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_t(4, (N_ROWS, N_IN)) * 0.02).astype(np.float32)
    imatrix = rng.gamma(0.5, 2, N_IN).astype(np.float32)
    cpu = ctypes.CDLL(str(library().path.with_name("libggml-cpu.so")))
    cpu.ggml_cpu_init()
    cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTraits)
    cpu.ggml_get_type_traits_cpu.argtypes = [_INT]
    print(f"ggml {library().version}\n")
    print("| type | bpw | first row, s | quantizes, M weights/s | product, M weights/s | reads, GB/s |\n|---|---|---|---|---|---|")
    for q in menu("all"):
        begin = time.process_time()
        quantize(weights[:1], q, imatrix)
        first = time.process_time() - begin
        speed = weights.size / best(lambda q=q: quantize(weights[:16], q, imatrix)) / 1e6 / (N_ROWS / 16)  # type: ignore[misc]
        product = weights.size / product_seconds(cpu, q, weights) / 1e6
        print(f"| {q.name} | {q.bpw:.4g} | {first:.1f} | {speed:.3g} | {product:,.0f} | {product * q.bpw / 8000:.1f} |", flush=True)


if __name__ == "__main__":
    main()

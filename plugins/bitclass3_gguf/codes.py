"""The code of each weight in ggml's blocks: read from quantized rows, and written back with other codes.

    weight = step * value(code) + offset        step and offset come from the block's scales; value is the code itself, or IQ4's table

Layouts are those of llama.cpp's ggml-common.h and of the dequantize_row functions in ggml-quants.c. The types with grids (IQ1, IQ2,
IQ3) are not here: in them a code stands for several weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.model import FloatArray
from bitclass3_core.qtypes import QType

Bytes = NDArray[Any]  # of np.uint8; numpy types the results of shifts and masks too widely
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]  # of the four 2-bit fields of a byte


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes uint8 [n_rows, n_in] from 0 to ``largest``, and the float32 step and offset of each weight."""

    codes: Bytes
    step: FloatArray
    offset: FloatArray
    largest: int
    is_table: bool  # the value is IQ4_VALUES[code]


_Unpacked = tuple[Bytes, FloatArray, FloatArray]  # codes [n_blocks, block], step and offset [n_blocks, n_scales]


@dataclass(frozen=True, slots=True)
class _Format:
    bits: int
    read: Callable[[Bytes], _Unpacked]
    write: Callable[[Bytes, Bytes], None]  # (blocks [n_blocks, type size], changed in place, codes [n_blocks, block])
    is_table: bool = False


def _half(blocks: Bytes, begin: int) -> FloatArray:
    """The float16 at a byte offset in every block, [n_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, begin : begin + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """[..., 16] bytes as [..., 32] codes: the low halves first."""
    return np.concatenate([packed & 15, packed >> 4], -1)


def _from_nibbles(codes: Bytes) -> Bytes:
    """[..., 32] codes of 4 bits as [..., 16] bytes."""
    packed: Bytes = codes[..., :16] | (codes[..., 16:] << 4)
    return packed


def _pairs(codes: Bytes) -> Bytes:
    """[..., 4, 32] codes of 2 bits as [..., 32] bytes."""
    packed: Bytes = codes[..., 0, :] | (codes[..., 1, :] << 2) | (codes[..., 2, :] << 4) | (codes[..., 3, :] << 6)
    return packed


def _bits(codes: Bytes) -> Bytes:
    """[n, 8, 32] bits as [n, 32] bytes, the first in the lowest place."""
    return np.packbits(codes, axis=1, bitorder="little")[:, 0]


def _read_nibbles(begin: int, offset: int | None, has_fifth: bool = False) -> Callable[[Bytes], _Unpacked]:
    """Blocks of 32: the step, a second factor if ``offset`` is None (else that many steps), maybe fifth bits from ``begin``, nibbles."""

    def read(blocks: Bytes) -> _Unpacked:
        step = _half(blocks, 0)
        codes = _nibbles(blocks[:, begin + 4 * has_fifth :])
        if has_fifth:
            fifth = np.unpackbits(np.ascontiguousarray(blocks[:, begin : begin + 4]), axis=1, bitorder="little")
            codes = codes | (fifth << 4)
        return codes, step, _half(blocks, 2) if offset is None else offset * step

    return read


def _write_nibbles(begin: int, has_fifth: bool = False) -> Callable[[Bytes, Bytes], None]:
    def write(blocks: Bytes, codes: Bytes) -> None:
        if has_fifth:
            blocks[:, begin : begin + 4] = np.packbits(codes >> 4, axis=1, bitorder="little")
        blocks[:, begin + 4 * has_fifth :] = _from_nibbles((codes & 15).reshape(len(codes), -1, 32)).reshape(len(codes), -1)

    return write


def _read_q8_0(blocks: Bytes) -> _Unpacked:
    step = _half(blocks, 0)
    return blocks[:, 2:] ^ 128, step, -128 * step  # signed bytes; the codes count from -128


def _write_q8_0(blocks: Bytes, codes: Bytes) -> None:
    blocks[:, 2:] = codes ^ 128


def _read_q2_k(blocks: Bytes) -> _Unpacked:
    codes = (blocks[:, 16:80].reshape(-1, 2, 1, 32) >> _SHIFTS) & 3
    scales = blocks[:, :16]
    return codes, _half(blocks, 80) * (scales & 15), -_half(blocks, 82) * (scales >> 4)


def _write_q2_k(blocks: Bytes, codes: Bytes) -> None:
    blocks[:, 16:80] = _pairs(codes.reshape(-1, 2, 4, 32)).reshape(-1, 64)


def _q3_k_scales(packed: Bytes) -> FloatArray:
    """The sixteen 6-bit scales of [n, 12] bytes, less 32: four low bits in the first eight bytes, two high ones in the last four."""
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], 1)
    high = ((packed[:, None, 8:12] >> _SHIFTS) & 3).reshape(-1, 16)
    scales: FloatArray = (low | (high << 4)).astype(np.float32) - 32
    return scales


def _read_q3_k(blocks: Bytes) -> _Unpacked:
    low = (blocks[:, 32:96].reshape(-1, 2, 1, 32) >> _SHIFTS) & 3
    high = np.unpackbits(blocks[:, None, :32], axis=1, bitorder="little").reshape(-1, 2, 4, 32)
    step = _half(blocks, 108) * _q3_k_scales(blocks[:, 96:108])
    return low | (high << 2), step, -4 * step


def _write_q3_k(blocks: Bytes, codes: Bytes) -> None:
    blocks[:, :32] = _bits((codes >> 2).reshape(-1, 8, 32))
    blocks[:, 32:96] = _pairs((codes & 3).reshape(-1, 2, 4, 32)).reshape(-1, 64)


def _k_scales(packed: Bytes) -> tuple[FloatArray, FloatArray]:
    """The eight 6-bit scales and minima of Q4_K and Q5_K in [n, 12] bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], 1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], 1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _read_k(begin: int) -> Callable[[Bytes], _Unpacked]:
    """Q4_K (its nibbles begin at byte 16) and Q5_K (fifth bits at 16, nibbles at 48)."""

    def read(blocks: Bytes) -> _Unpacked:
        packed = blocks[:, begin:].reshape(-1, 4, 1, 32)
        codes = np.concatenate([packed & 15, packed >> 4], 2)
        if begin == 48:
            codes = codes | (np.unpackbits(blocks[:, None, 16:48], axis=1, bitorder="little").reshape(-1, 4, 2, 32) << 4)
        scales, minima = _k_scales(blocks[:, 4:16])
        return codes, _half(blocks, 0) * scales, -_half(blocks, 2) * minima

    return read


def _write_k(begin: int) -> Callable[[Bytes, Bytes], None]:
    def write(blocks: Bytes, codes: Bytes) -> None:
        low = (codes & 15).reshape(-1, 4, 2, 32)
        blocks[:, begin:] = (low[:, :, 0] | (low[:, :, 1] << 4)).reshape(-1, 128)
        if begin == 48:
            blocks[:, 16:48] = _bits((codes >> 4).reshape(-1, 8, 32))

    return write


def _read_q6_k(blocks: Bytes) -> _Unpacked:
    packed = blocks[:, :128].reshape(-1, 2, 2, 32)
    low = np.concatenate([packed & 15, packed >> 4], 2)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _SHIFTS) & 3
    step = _half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return low | (high << 4), step, -32 * step


def _write_q6_k(blocks: Bytes, codes: Bytes) -> None:
    low = (codes & 15).reshape(-1, 2, 2, 2, 32)
    blocks[:, :128] = (low[:, :, 0] | (low[:, :, 1] << 4)).reshape(-1, 128)
    blocks[:, 128:192] = _pairs((codes >> 4).reshape(-1, 2, 4, 32)).reshape(-1, 64)


def _read_iq4_xs(blocks: Bytes) -> _Unpacked:
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], 2).reshape(-1, 8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    step = _half(blocks, 0) * ((low | (high << 4)).astype(np.float32) - 32)
    return _nibbles(blocks[:, 8:].reshape(-1, 8, 16)), step, 0 * step


_FORMATS = {
    "Q4_0": _Format(4, _read_nibbles(2, -8), _write_nibbles(2)),
    "Q4_1": _Format(4, _read_nibbles(4, None), _write_nibbles(4)),
    "Q5_0": _Format(5, _read_nibbles(2, -16, has_fifth=True), _write_nibbles(2, has_fifth=True)),
    "Q5_1": _Format(5, _read_nibbles(4, None, has_fifth=True), _write_nibbles(4, has_fifth=True)),
    "Q8_0": _Format(8, _read_q8_0, _write_q8_0),
    "Q2_K": _Format(2, _read_q2_k, _write_q2_k),
    "Q3_K": _Format(3, _read_q3_k, _write_q3_k),
    "Q4_K": _Format(4, _read_k(16), _write_k(16)),
    "Q5_K": _Format(5, _read_k(48), _write_k(48)),
    "Q6_K": _Format(6, _read_q6_k, _write_q6_k),
    "IQ4_NL": _Format(4, _read_nibbles(2, 0), _write_nibbles(2), is_table=True),
    "IQ4_XS": _Format(4, _read_iq4_xs, _write_nibbles(8), is_table=True),
}


def has_codes(q: QType) -> bool:
    """Whether each weight of that type has a code of its own."""
    return q.name in _FORMATS


def unpack(data: Bytes, q: QType) -> Codes:
    """The codes of quantized rows [n_rows, row bytes]."""
    form = _FORMATS[q.name]
    codes, step, offset = form.read(data.reshape(-1, q.type_size))
    shape = (len(data), -1)
    per_scale = q.block_size // step.shape[1]
    steps, offsets = (np.repeat(values.astype(np.float32), per_scale, 1).reshape(shape) for values in (step, offset))
    return Codes(np.ascontiguousarray(codes.reshape(shape)), steps, offsets, (1 << form.bits) - 1, form.is_table)


def repack(data: Bytes, q: QType, codes: Bytes) -> Bytes:
    """The rows [n_rows, row bytes] with the same scales and with these codes [n_rows, n_in]."""
    out: Bytes = np.ascontiguousarray(data).copy()
    _FORMATS[q.name].write(out.reshape(-1, q.type_size), codes.reshape(-1, q.block_size))
    return out

"""Blocks of quantized weights taken apart: the integers, the step between them and the offset that they stand for.

A value is `step * q + offset`. Most types of GGUF are such lattices with one step for 32 values; keeping step and
integers apart, instead of multiplying them out, is what lets `q8_0.py` put them into another type without rounding
each value anew. Types with a step for 16 values come as plain float32.

Layouts: ggml/src/ggml-common.h and ggml-quants.c. Our own code and not `gguf.quants`: that package multiplies out,
and it would have to be installed wherever models are re-encoded. tests/build/test_blocks.py compares both bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int16]

BLOCK = 32
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int16)
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int16)


@dataclass(frozen=True, slots=True)
class Lattice:
    """Blocks of 32 values: `step[i] * q[i, j] + offset[i]`. `offset` None: there is none in this type."""

    q: Integers
    step: Floats
    offset: Floats | None

    def values(self) -> Floats:
        """Multiplied out, shape (blocks, 32)."""
        product: Floats = self.step[:, None] * self.q.astype(np.float32)
        return product if self.offset is None else product + self.offset[:, None]


def take_apart(kind: str, raw: Bytes) -> Lattice | Floats:
    """Blocks of a tensor, `raw` of shape (blocks, bytes of a block), as a lattice, or as values of shape (n, 32)."""
    return _READERS[kind](raw)


def known() -> frozenset[str]:
    """The tensor types that can be taken apart."""
    return frozenset(_READERS)


def _half(raw: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block."""
    found: Floats = np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16)[:, 0].astype(np.float32)
    return found


def _nibbles(raw: Bytes) -> Bytes:
    """16 bytes as 32 values: the low halves first, then the high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """4 bytes as 32 values, 0 or 16."""
    bits: Bytes = np.unpackbits(np.ascontiguousarray(raw), axis=1, bitorder="little")
    return bits << np.uint8(4)


def _q4_0(raw: Bytes) -> Lattice:
    return Lattice(_nibbles(raw[:, 2:]).astype(np.int16) - np.int16(8), _half(raw, 0), None)


def _q4_1(raw: Bytes) -> Lattice:
    return Lattice(_nibbles(raw[:, 4:]).astype(np.int16), _half(raw, 0), _half(raw, 2))


def _q5_0(raw: Bytes) -> Lattice:
    q = _nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6])
    return Lattice(q.astype(np.int16) - np.int16(16), _half(raw, 0), None)


def _q5_1(raw: Bytes) -> Lattice:
    q = _nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8])
    return Lattice(q.astype(np.int16), _half(raw, 0), _half(raw, 2))


def _q8_0(raw: Bytes) -> Lattice:
    return Lattice(np.ascontiguousarray(raw[:, 2:]).view(np.int8).astype(np.int16), _half(raw, 0), None)


def _iq4_nl(raw: Bytes) -> Lattice:
    return Lattice(_IQ4[_nibbles(raw[:, 2:])], _half(raw, 0), None)


def _mxfp4(raw: Bytes) -> Lattice:
    """The step is half a power of two, 2^(e - 128); its smallest two are below the normal numbers of float32."""
    exponent = raw[:, 0].astype(np.int32)
    return Lattice(_E2M1[_nibbles(raw[:, 1:])], np.ldexp(np.float32(1), exponent - 128).astype(np.float32), None)


def _iq4_xs(raw: Bytes) -> Lattice:
    """Eight blocks with a six-bit factor each: four bits in one array, two in another."""
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    high = np.ascontiguousarray(raw[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    factor = (low | ((high & 3) << 4)).astype(np.int16) - np.int16(32)
    q = _IQ4[_nibbles(raw[:, 8:].reshape(-1, 16))]
    return Lattice(q, (_half(raw, 0)[:, None] * factor.astype(np.float32)).reshape(-1), None)


def _k_factors(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Factors of step and offset of eight blocks, six bits each, out of 12 bytes."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    steps = np.concatenate([a & 0x3F, (c & 15) | ((a >> 2) & 0x30)], axis=1)
    return steps, np.concatenate([b & 0x3F, (c >> 4) | ((b >> 2) & 0x30)], axis=1)


def _k_lattice(raw: Bytes, q: Bytes) -> Lattice:
    steps, offsets = _k_factors(raw[:, 4:16])
    step = _half(raw, 0)[:, None] * steps.astype(np.float32)
    offset = -(_half(raw, 2)[:, None] * offsets.astype(np.float32))
    return Lattice(q.astype(np.int16), step.reshape(-1), offset.reshape(-1))


def _pairs(raw: Bytes) -> Bytes:
    """128 bytes as eight blocks: each 32 bytes hold one block in the low halves and the next in the high ones."""
    parts = raw.reshape(-1, 4, 1, 32)
    return np.concatenate([parts & 15, parts >> 4], axis=2).reshape(-1, BLOCK)


def _q4_k(raw: Bytes) -> Lattice:
    return _k_lattice(raw, _pairs(raw[:, 16:144]))


def _q5_k(raw: Bytes) -> Lattice:
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    high: Bytes = ((raw[:, None, 16:48] >> shifts) & np.uint8(1)) << np.uint8(4)
    return _k_lattice(raw, _pairs(raw[:, 48:176]) | high.reshape(-1, BLOCK))


def _q2_k(raw: Bytes) -> Floats:
    q = _quarters(raw[:, 16:80])
    step = _half(raw, 80)[:, None] * (raw[:, :16] & 15).astype(np.float32)
    offset = _half(raw, 82)[:, None] * (raw[:, :16] >> 4).astype(np.float32)
    values: Floats = step.reshape(-1, 1) * q.reshape(-1, 16).astype(np.float32) - offset.reshape(-1, 1)
    return values.reshape(-1, BLOCK)


def _quarters(raw: Bytes) -> Bytes:
    """64 bytes as 256 values of two bits: each 32 bytes hold four blocks."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    quarters: Bytes = (raw.reshape(-1, 2, 1, 32) >> shifts) & np.uint8(3)
    return quarters


def _q3_k(raw: Bytes) -> Floats:
    packed = raw[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, :, None]
    high = ((packed[:, None, 8:] >> shifts) & 3).reshape(-1, 16)
    factor = (low | (high << 4)).astype(np.int16) - np.int16(32)
    third = (raw[:, None, :32] >> np.arange(8, dtype=np.uint8)[None, :, None]) & 1  # 1: not four less
    less = (np.int16(1) - third.astype(np.int16)) << 2
    q = _quarters(raw[:, 32:96]).reshape(-1, 256).astype(np.int16) - less.reshape(-1, 256)
    return _sixteens(_half(raw, 108), factor, q)


def _q6_k(raw: Bytes) -> Floats:
    halves = raw[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([halves & 15, halves >> 4], axis=2).reshape(-1, 256)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    high = ((raw[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 256)
    q = (low | (high << 4)).astype(np.int16) - np.int16(32)
    factor = np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.int16)
    return _sixteens(_half(raw, 208), factor, q)


def _sixteens(step: Floats, factor: Integers, q: Integers) -> Floats:
    """Values of blocks with a factor for every 16."""
    steps = (step[:, None] * factor.astype(np.float32)).reshape(-1, 1)
    values: Floats = steps * q.reshape(-1, 16).astype(np.float32)
    return values.reshape(-1, BLOCK)


_READERS: dict[str, Callable[[Bytes], Lattice | Floats]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "MXFP4": _mxfp4,
}  # fmt: skip

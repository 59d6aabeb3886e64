"""Weights as Q8_0: a float16 step and 32 integers of eight bits, with as little change as that type allows.

| what a block holds | how | what remains |
|---|---|---|
| a lattice without offset (Q4_0, Q5_0, IQ4_NL, MXFP4) | its own step and integers | nothing: the values are the same |
| the same with a step that float16 rounds (IQ4_XS) | its own integers | one part in 4,096 |
| a lattice with an offset (Q4_1, Q5_1, Q4_K, Q5_K) | a whole fraction of its step (`_fitted`) | half of the next |
| anything else (Q2_K, Q3_K, Q6_K) | the nearest of 255 levels, as llama.cpp makes Q8_0 | half a level |

llama.cpp's way, applied to all, rounds every value: 0.4 % of the largest in the block. The step of the second kind is
chosen from a few candidates so that the offset falls close to a level, which leaves a fraction of that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from localfoundry.build.blocks import BLOCK, Bytes, Floats, Lattice

_LARGEST = 127
_LESS = np.arange(8, dtype=np.float32)[:, None]  # so many fractions of the step are tried; more gain little
BLOCK_BYTES = 2 + BLOCK

_Rounded = tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]


def encode(blocks: Lattice | Floats) -> Bytes:
    """Q8_0 blocks, shape (blocks, 34)."""
    if isinstance(blocks, Lattice):
        step, q = _same(blocks) if blocks.offset is None else _fitted(blocks)
    else:
        step, q = _nearest(blocks)
    packed = np.empty((len(q), BLOCK_BYTES), dtype=np.uint8)
    packed[:, :2] = step[:, None].view(np.uint8)
    packed[:, 2:] = q.view(np.uint8)
    return packed


def _nearest(values: Floats) -> _Rounded:
    """Bit for bit what ggml's `quantize_row_q8_0_ref` makes: halves are rounded away from zero."""
    step = np.abs(values).max(axis=1) / np.float32(_LARGEST)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    scaled = values * inverse[:, None]
    return step.astype(np.float16), np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)


def _same(blocks: Lattice) -> _Rounded:
    return blocks.step.astype(np.float16), blocks.q.astype(np.int8)


def _fitted(blocks: Lattice) -> _Rounded:
    """Blocks with an offset: with s = step / k, a value is s * (k * q + offset / s), and only offset / s is rounded.

    k is one of eight, from the largest that keeps all within 127 downwards: that with the smallest error at both ends
    of the block (it is linear in q). Where none fits, or the nearest levels are as good, those are taken:
    a step that is tiny beside the offset, or zero.
    """
    assert blocks.offset is not None
    step, offset = blocks.step, blocks.offset
    low, high = blocks.q.min(axis=1).astype(np.float32), blocks.q.max(axis=1).astype(np.float32)
    largest = np.maximum(np.abs(step * low + offset), np.abs(step * high + offset))
    with np.errstate(all="ignore"):  # candidates that are nothing have an error that is no number
        most = np.floor(np.where(largest > 0, np.float32(_LARGEST) * np.abs(step) / largest, 0))
        k = np.maximum(most - _LESS, 0)
        fine = (step / k).astype(np.float16).astype(np.float32)
        whole = np.rint(offset / fine)
        error = np.zeros_like(fine)
        for q in (low, high):
            level = k * q + whole
            error = np.maximum(error, np.abs(fine * level - (step * q + offset)))
            error[~(np.abs(level) <= _LARGEST)] = np.inf
    best = np.where(np.isfinite(error), error, np.inf).argmin(axis=0)[None]
    k, fine, whole, error = (np.take_along_axis(each, best, axis=0)[0] for each in (k, fine, whole, error))
    worse = ~(error < largest / np.float32(2 * _LARGEST))
    k[worse] = whole[worse] = 0
    q8 = (k.astype(np.int16)[:, None] * blocks.q + whole.astype(np.int16)[:, None]).astype(np.int8)
    step16 = fine.astype(np.float16)
    if worse.any():
        values = step[worse, None] * blocks.q[worse].astype(np.float32) + offset[worse, None]
        step16[worse], q8[worse] = _nearest(values)
    return step16, q8


def decode(packed: Bytes) -> Floats:
    """The values that Q8_0 blocks stand for, shape (blocks, 32): what was made is measured against its source."""
    step = np.ascontiguousarray(packed[:, :2]).view(np.float16).astype(np.float32)
    values: Floats = step * np.ascontiguousarray(packed[:, 2:]).view(np.int8).astype(np.float32)
    return values

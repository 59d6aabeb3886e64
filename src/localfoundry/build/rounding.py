"""Weights as Q4_0, Q4_1, Q5_0, Q5_1 and BF16, rounded bit for bit as llama.cpp's quantizer does it without a matrix.

A block of 32 values has one step in float16, and in the types that end in 1 an offset beside it. Q*_0 puts the value
that is farthest from zero at the end of the range; Q*_1 spreads the range from the smallest value to the largest.
Source: `quantize_row_q4_0_ref` and its kin in ggml/src/ggml-quants.c, and `ggml_compute_fp32_to_bf16` in
ggml/src/ggml-impl.h; tests/build/test_rounding.py compares with the `gguf` package, and `make test-native` with
`llama-quantize` itself. The types with a search for the best step (K and IQ) are left to that program.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from localfoundry.build.blocks import BLOCK, Bytes, Floats

_BITS = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5}
KINDS = frozenset(_BITS)

Upper = npt.NDArray[np.uint16]
_Halves = npt.NDArray[np.float16]


def encode(kind: str, values: Floats) -> Bytes:
    """Blocks of that type, shape (blocks, bytes of a block), of values of shape (blocks, 32).

    Values that are no numbers make blocks that are none either; the caller finds them by their error.
    """
    bits = _BITS[kind]
    steps, q = (_symmetric if kind.endswith("0") else _spread)(values, bits)
    parts = [each[:, None].view(np.uint8) for each in steps]
    if bits == 5:
        fifth = np.packbits(q.reshape(len(q), 4, 8) >> np.uint8(4), axis=-1, bitorder="little")
        parts.append(fifth.reshape(len(q), 4))
    half = BLOCK // 2
    parts.append((q[:, :half] & np.uint8(15)) | ((q[:, half:] & np.uint8(15)) << np.uint8(4)))
    return np.concatenate(parts, axis=1)


def upper_halves(values: Floats) -> Upper:
    """BF16: the upper halves of float32, rounded to the nearest, to the even one where two are as near.

    What is no number stays one: rounding would carry it over to infinity, or to zero.
    """
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(64)
    found: Upper = np.where(np.isnan(values), quiet, rounded).astype("<u2")
    return found


def _symmetric(values: Floats, bits: int) -> tuple[list[_Halves], Bytes]:
    """The value farthest from zero becomes the lowest level, with its sign in the step."""
    levels = 2**bits
    farthest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    step = farthest / np.float32(-levels // 2)
    q = np.trunc(values * _inverse(step) + np.float32(levels / 2 + 0.5))
    return [step[:, 0].astype(np.float16)], q.clip(0, levels - 1).astype(np.uint8)


def _spread(values: Floats, bits: int) -> tuple[list[_Halves], Bytes]:
    """The levels go from the smallest value to the largest."""
    levels = 2**bits
    least = values.min(axis=1, keepdims=True)
    step = (values.max(axis=1, keepdims=True) - least) / np.float32(levels - 1)
    q = np.trunc((values - least) * _inverse(step) + np.float32(0.5))
    return [step[:, 0].astype(np.float16), least[:, 0].astype(np.float16)], q.clip(0, levels - 1).astype(np.uint8)


def _inverse(step: Floats) -> Floats:
    return np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)

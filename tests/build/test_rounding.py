"""Weights rounded to the plain types, against the `gguf` package bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from localfoundry.build import blocks, rounding
from localfoundry.build.blocks import Lattice

KINDS = sorted(rounding.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_those_of_the_reference(kind: str) -> None:
    random = np.random.default_rng(7)
    values = (random.standard_t(4, (4096, 32)) * 0.05).astype(np.float32)
    values[0] = 0  # no step at all
    values[1] = 0.25  # no spread
    values[2] = np.round(values[2], 2)  # values that lie between two levels
    theirs = quants.quantize(values, Type[kind])
    assert np.array_equal(rounding.encode(kind, values), theirs.reshape(len(values), -1))


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_moves_by_more_than_a_step(kind: str) -> None:
    values = (np.random.default_rng(8).standard_normal((512, 32)) * 0.1).astype(np.float32)
    once = rounding.encode(kind, values)
    read = blocks.take_apart(kind, once)
    assert isinstance(read, Lattice)
    off = np.abs(read.values() - values).max()
    step = read.step.max() if kind.endswith("1") else np.abs(read.step).max()
    assert 0 < off <= step * 1.01


def test_bf16_is_that_of_the_reference() -> None:
    random = np.random.default_rng(9)
    values = (random.standard_t(3, 65536) * 0.05).astype(np.float32)
    bits = np.array(
        [0, 0x80000000, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FFFFFFF, 0x3F808000, 0x3F818000]
    )
    values[: len(bits)] = bits.astype(np.uint32).view(np.float32)  # zeros, the ends, no numbers, halves to even
    theirs = quants.quantize(values.reshape(-1, 64), Type.BF16).view(np.uint16).reshape(-1)
    assert np.array_equal(rounding.upper_halves(values), theirs)

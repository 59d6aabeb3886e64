"""Quantized blocks taken apart and put into Q8_0, against the `gguf` package bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from build.quantized_gguf import raw_blocks
from localfoundry.build import blocks, q8_0, reencode
from localfoundry.build.blocks import Floats, Lattice
from localfoundry.formats.gguf_types import BLOCKS

KINDS = sorted(blocks.known())
SAME = ["IQ4_NL", "MXFP4", "Q4_0", "Q5_0", "Q8_0"]
OFFSETS = ["Q4_1", "Q4_K", "Q5_1", "Q5_K"]


def taken_apart(kind: str, rows: int = 128) -> tuple[Lattice | Floats, Floats]:
    """The blocks as we read them, and the values as the `gguf` package does."""
    raw = raw_blocks(kind, rows)
    theirs = quants.dequantize(raw.reshape(-1), Type[kind]).reshape(-1, 32)
    return blocks.take_apart(kind, raw.reshape(-1, BLOCKS[kind][1])), theirs


def values(read: Lattice | Floats) -> Floats:
    return read.values() if isinstance(read, Lattice) else read


def rms(found: Floats, wanted: Floats) -> float:
    difference = found.astype(np.float64) - wanted
    return float(np.sqrt(np.square(difference).sum() / np.square(wanted.astype(np.float64)).sum()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_read_as_the_reference_reads_it(kind: str) -> None:
    read, theirs = taken_apart(kind)
    assert np.array_equal(values(read), theirs)


@pytest.mark.parametrize("kind", SAME)
def test_a_lattice_without_offset_keeps_every_value(kind: str) -> None:
    read, theirs = taken_apart(kind)
    assert np.array_equal(q8_0.decode(q8_0.encode(read)), theirs)


@pytest.mark.parametrize("kind", OFFSETS)
def test_a_lattice_with_an_offset_comes_closer_than_rounding_each_value(kind: str) -> None:
    read, theirs = taken_apart(kind)
    plain = quants.dequantize(quants.quantize(theirs, Type.Q8_0), Type.Q8_0).reshape(-1, 32)
    assert rms(q8_0.decode(q8_0.encode(read)), theirs) < 0.9 * rms(plain, theirs)


def test_plain_values_become_what_llama_cpp_makes_of_them() -> None:
    weights = (np.random.default_rng(3).standard_t(3, (4096, 32)) * 0.1).astype(np.float32)
    weights[0] = 0
    assert np.array_equal(q8_0.encode(weights), quants.quantize(weights, Type.Q8_0).reshape(-1, 34))


@pytest.mark.parametrize(
    ("step", "offset"), [(0.0, 0.0), (0.0, 0.7), (0.01, 0.0), (1e-4, 1.0), (-0.02, 0.1), (6e-8, -6e-8), (0.5, -60000.0)]
)
def test_blocks_at_the_edges_stay_within_half_a_level(step: float, offset: float) -> None:
    q = np.tile(np.arange(32, dtype=np.int16) % 16, (4, 1))
    given = Lattice(q, np.full(4, step, np.float32), np.full(4, offset, np.float32))
    found = q8_0.decode(q8_0.encode(given))
    level = np.abs(given.values()).max() / 127
    finest = 2.0**-24 * 64  # what is below the smallest float16 step is lost in any Q8_0
    assert np.abs(found - given.values()).max() <= 0.5 * level * 1.07 + finest


def test_a_plan_knows_the_types_that_can_be_read() -> None:
    """`reencode` lists them again, so that a plan needs no numpy."""
    assert blocks.known() == reencode._KNOWN

"""Figures of many files at once are those of one at a time, to the last bit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from localfoundry import fit
from localfoundry.catalog.model import Architecture
from localfoundry.fit.decoder import Decoders
from localfoundry.fit.speed import kernel

NAMES = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q3_K_M", "Q3_K_L", "Q2_K_S", "Q2_K", "Q4_0", "Q4_1", "Q5_0", "Q6_K",
         "Q8_0", "IQ4_NL", "F16", "BF16", "F32", "of nobody", None)  # fmt: skip
PROCESSORS = (
    fit.Processor(20e9, 4),
    fit.Processor(33.3e9, 2, ("avx2",), measured=True),
    fit.Processor(9e9, 8, ("neon",), doubt=3.0),
)


def architecture(chance: random.Random) -> Architecture:
    heads, head = chance.choice((4, 9, 14, 32, 64)), chance.choice((32, 64, 80, 128))
    kept = chance.choice([count for count in (1, 2, 4, 8, heads) if heads % count == 0])
    return Architecture(
        chance.randrange(1, 90), heads * head, chance.randrange(64, 30000), heads, kept, head,
        chance.choice((100, 32000, 151936)), chance.random() < 0.5, chance.random() < 0.5, chance.random() < 0.5,
        chance.choice((512, 2048, 8192, 131072)),
    )  # fmt: skip


@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon", "none"])
def test_thousands_of_random_files_get_the_figures_of_the_plain_estimate(isa: str) -> None:
    """Equal, not nearly: bytes, rates and both ends of their intervals, for sizes from nothing to a terabyte."""
    chance = random.Random(isa)
    machines = [(processor, Decoders(processor, isa)) for processor in PROCESSORS]
    contexts = [512, 1000, 4096, 8192]
    for _ in range(1500):
        processor, machine = chance.choice(machines)
        shaped, name = architecture(chance), chance.choice(NAMES)
        load = fit.Load(chance.choice(contexts), embeddings=chance.random() < 0.2, isa=isa)
        for size in (None, chance.randrange(1, 5000), int(10 ** chance.uniform(6, 12))):
            shape, file = fit.of_catalog(shaped, size, name), machine.file(shaped, size, name)
            assert file.memory(load) == fit.memory(shape, load).interval, (shaped, size, name)
            assert file.decode(load) == fit.decode(shape, load, processor).interval, (shaped, size, name)
            assert file.prefill(load, 512) == fit.prefill(shape, load, processor, 512).interval, (shaped, size, name)
            assert (file.weight_bytes, file.sized, file.kernel) == (shape.weight_bytes, shape.sized, kernel(shape))


def test_the_largest_context_is_that_of_the_plain_estimate() -> None:
    """In rooms about as large as what is needed, where a byte decides."""
    chance = random.Random(5)
    machine = Decoders(PROCESSORS[0], "avx2")
    for _ in range(300):
        shaped, name = architecture(chance), chance.choice(NAMES)
        size, load = int(10 ** chance.uniform(7, 10)), fit.Load(8192)
        shape, file = fit.of_catalog(shaped, size, name), machine.file(shaped, size, name)
        edge = fit.memory(shape, replace(load, context=chance.choice((256, 512, 2048, 8192)))).total
        for room in (edge - 1, edge, edge + 1):
            for most in (shaped.context_length, 8192):
                found = file.largest_context(load, room, most)
                assert found == fit.largest_context(shape, load, room, most), (shaped, size, name, room)


def test_without_a_processor_there_is_memory() -> None:
    shaped = architecture(random.Random(1))
    found = Decoders(None, "avx2").file(shaped, 10**9, "Q4_0").memory(fit.Load(4096))
    assert found == fit.memory(fit.of_catalog(shaped, 10**9, "Q4_0"), fit.Load(4096)).interval

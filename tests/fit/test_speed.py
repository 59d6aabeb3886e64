"""Speeds as predicted: what makes a model slower does, and nothing is called measured."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.fit import Load, Processor, decode, load_time, prefill
from localfoundry.formats.shape import ModelShape
from model_shapes import demands, shapes
from recorded_loads import loads

MACHINE = Processor(bandwidth=40e9, cores=2)
processors = st.builds(
    Processor,
    bandwidth=st.floats(1e9, 2e12),
    cores=st.integers(1, 128),
    isa=st.sampled_from((("avx2",), ("avx2", "avx512_vnni"), ("i8mm",), ())),
)


@given(shapes(), demands, processors, st.integers(0, 100_000), st.integers(1, 100_000))
def test_a_deeper_context_is_never_faster(
    shape: ModelShape, load: Load, processor: Processor, depth: int, more: int
) -> None:
    assert decode(shape, load, processor, depth + more).value <= decode(shape, load, processor, depth).value * (
        1 + 1e-9
    )
    assert prefill(shape, load, processor, 1 + depth).value > 0


@given(shapes(), demands, processors, st.integers(0, 100_000))
def test_more_bandwidth_and_more_cores_are_never_slower(
    shape: ModelShape, load: Load, processor: Processor, depth: int
) -> None:
    before = decode(shape, load, processor, depth).value
    for better in (
        replace(processor, bandwidth=processor.bandwidth * 2),
        replace(processor, cores=processor.cores + 1),
    ):
        assert decode(shape, load, better, depth).value >= before * (1 - 1e-9)


def test_the_time_of_a_token_is_the_sum_of_what_is_shown() -> None:
    for one in loads():
        found = decode(one.shape, one.load, MACHINE, 500)
        assert abs(1 / found.value - sum(found.terms.values())) < 1e-9
        assert found.terms.keys() == found.words.keys() == {"weights", "attention", "steps"}
        assert found.interval.source == "predicted"
        assert found.interval.low < found.value < found.interval.high
        assert load_time(one.shape, one.load, MACHINE).value > 0


def test_a_mixture_reads_only_the_experts_it_uses() -> None:
    mixture = next(one for one in loads() if one.shape.experts)
    assert mixture.shape.active_bytes < mixture.shape.weight_bytes / 2
    dense = replace_active(mixture.shape)
    assert decode(mixture.shape, mixture.load, MACHINE).value > decode(dense, mixture.load, MACHINE).value


def replace_active(shape: ModelShape) -> ModelShape:
    return msgspec.structs.replace(
        shape, active_bytes=shape.weight_bytes, active_parameters=shape.active_parameters * 4
    )

"""What is predicted of memory, against recorded loads of the real engine, and what must hold for any model."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry import fit
from localfoundry.fit import Load, largest_context, memory
from localfoundry.fit.memory import cells, kv_bytes_per_cell
from localfoundry.formats.shape import ModelShape
from model_shapes import demands, shapes
from recorded_loads import Recorded, loads


def test_enough_loads_were_recorded() -> None:
    """At least 60, over four types of the starter model, four contexts, three cache types and 1, 4 and 8 requests."""
    assert len(loads()) >= 60
    assert len({one.file for one in loads() if one.file.startswith("SmolLM2")}) >= 4
    assert {one.load.context for one in loads()} >= {512, 2048, 8192, 32768}
    assert {one.load.cache_keys for one in loads()} >= {"f16", "q8_0", "q4_0"}
    assert {one.load.parallel for one in loads()} >= {1, 4, 8}
    for shape in ("Qwen2.5-0.5B", "Qwen3-0.6B", "Llama-3.2-1B", "Phi-4-mini", "Gemma-2", "Gemma-3", "Qwen3-30B-A3B"):
        assert any(one.file.startswith(shape) for one in loads()), shape


def test_nine_of_ten_loads_are_within_5_percent_and_all_within_10() -> None:
    errors = sorted((abs(one.error), one.file, one.load) for one in loads())
    assert errors[-1][0] <= 0.10, errors[-3:]
    assert sum(error <= 0.05 for error, _, _ in errors) >= 0.9 * len(errors), errors[-10:]


def test_intervals_hold_what_was_measured_at_their_rate() -> None:
    """90 % is what they state. The process's line was fitted to every other load; these are the ones held back."""
    held_back = loads()[1::2]
    held = sum(one.predicted.interval.holds(one.resident) for one in held_back)
    assert held >= 0.9 * len(held_back), [
        one.file for one in held_back if not one.predicted.interval.holds(one.resident)
    ]
    widths = [(one.predicted.interval.high / one.predicted.interval.low) for one in held_back if one.shape.certain]
    assert max(widths) < 1.35  # an interval that holds everything would say nothing


@pytest.mark.parametrize("one", loads(), ids=lambda one: f"{one.file} {one.load.context}x{one.load.parallel}")
def test_weights_and_keys_and_values_are_exact(one: Recorded) -> None:
    """To what the engine's log rounds to."""
    predicted = one.predicted
    mapped = predicted["weights"] + predicted["rearranged"] + predicted["stale"]
    assert mapped == pytest.approx(one.buffers["weights"], abs=40_000)
    assert predicted["kv_cache"] + predicted["state"] == pytest.approx(one.buffers["kv_cache"], abs=40_000)


def test_compute_buffers_are_within_their_spread() -> None:
    for one in loads():
        stated, predicted = one.buffers["compute"], one.predicted["compute"] + one.predicted["output"]
        assert abs(predicted - stated) <= max(0.10 * stated, 20 * 2**20), (one.file, one.load, predicted, stated)


@given(shapes(), demands, st.integers(0, 200_000), st.integers(0, 64))
def test_more_context_or_requests_never_need_less(shape: ModelShape, load: Load, more: int, others: int) -> None:
    larger = replace(load, context=load.context + more, parallel=load.parallel + others)
    assert memory(shape, larger).total >= memory(shape, load).total


@given(shapes(), demands)
def test_checkpoints_hold_at_most_the_windowed_part_of_the_context_twice(shape: ModelShape, load: Load) -> None:
    """Two copies for each request: of window and state. They come with use, so the low end is without them."""
    per_token = sum(kind.count * kv_bytes_per_cell(kind, load) for kind in shape.layers if kind.windowed)
    tokens = min(shape.window * load.parallel, cells(load.context))
    found = memory(shape, load)
    assert found["checkpoints"] == int(2 * (per_token * tokens + found["state"]))
    assert memory(shape, replace(load, full_window=True))["checkpoints"] == 2 * found["state"]
    assert found.interval.low <= found.total - found["checkpoints"]


@given(shapes(), demands)
def test_the_terms_are_the_total_and_the_interval_is_around_it(shape: ModelShape, load: Load) -> None:
    found = memory(shape, load)
    assert sum(term.size_bytes for term in found.terms) == found.total
    assert found.interval.low <= found.total <= found.interval.high
    assert all(term.size_bytes > 0 and term.words for term in found.terms)


@given(shapes(), demands, st.integers(10**6, 10**12), st.integers(1, 200_000))
def test_the_largest_context_is_the_largest_that_fits(shape: ModelShape, load: Load, room: int, most: int) -> None:
    best = largest_context(shape, load, room, most)
    if best is None:
        assert memory(shape, replace(load, context=min(256, most))).total > room
        return
    assert memory(shape, replace(load, context=best)).total <= room
    assert best == most or memory(shape, replace(load, context=min(best + 256, most))).total > room


def test_a_table_goes_from_512_to_what_the_model_was_trained_for() -> None:
    shape = loads()[0].shape
    rows = fit.table(shape, Load(8192), 10_000, room_bytes=260_000_000)
    assert [row.context for row in rows] == [512, 1024, 2048, 4096, 8192, 10_000]
    assert [row.fits for row in rows] == sorted((row.fits for row in rows), reverse=True)
    assert all(row.fits is None for row in fit.table(shape, Load(8192), 10_000))


def test_a_shape_that_is_not_certain_says_so_in_its_interval() -> None:
    shape = loads()[0].shape
    sure, unsure = (memory(s, Load(8192)).interval for s in (shape, msgspec.structs.replace(shape, certain=False)))
    assert unsure.value == sure.value
    assert unsure.high - unsure.low > sure.high - sure.low

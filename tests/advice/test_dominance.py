"""Dominance between intervals, against its definition tried on every pair."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from localfoundry.advice.dominance import Range, beats, dominators

_RANGES = st.none() | st.tuples(st.integers(0, 5), st.sampled_from([0, 0, 0, 1, 2])).map(lambda r: (r[0], r[0] + r[1]))
Point = tuple[Range | None, ...]


def beaten(a: Point, b: Point) -> bool:
    """The definition."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return len(pairs) == len(a) and all(x[0] >= y[1] for x, y in pairs) and any(x[0] > y[1] for x, y in pairs)


@given(st.lists(st.tuples(_RANGES, _RANGES, _RANGES), max_size=40))
def test_as_defined(points: list[Point]) -> None:
    found = dominators(points)
    for point, by in zip(points, found, strict=True):
        assert (by is not None) == any(beaten(other, point) for other in points)
        assert [beats(other, point) for other in points] == [beaten(other, point) for other in points]
        if by is not None:
            assert beats(points[by], point)
            assert found[by] is None, "a dominator that is dominated itself explains nothing"


def test_what_overlaps_or_is_not_known_shows_nothing() -> None:
    assert dominators([((0.5, 0.7),), ((0.6, 0.9),)]) == [None, None]
    assert dominators([((0.9, 0.9), None), ((0.1, 0.1), (1, 1))]) == [None, None]
    assert dominators([((1, 1), (1, 1)), ((1, 1), (1, 1))]) == [None, None]
    assert dominators([((0.5, 0.6),), ((0.7, 0.9),)]) == [1, None]
    assert dominators([]) == []


def test_many_points_are_not_compared_in_pairs() -> None:
    """20,000 of which nobody is dominated, where comparing all pairs would take minutes; the bound is generous."""
    generator = random.Random(7)
    points: list[Point] = []
    for _ in range(20_000):
        parts = [generator.expovariate(1) for _ in range(5)]
        whole = sum(parts)
        points.append(tuple((part / whole, part / whole * 1.01) for part in parts))
    started = time.process_time()
    assert dominators(points) == [None] * len(points)
    assert time.process_time() - started < 20

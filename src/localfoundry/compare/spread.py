"""Thousands of values as the few numbers that a chart of their distribution draws. Pure.

Nearest ranks, so that what is drawn was measured; the median is that of the tables. Reckoned here and not by the
drawing library, which would take each value through its own parser: a page of fifty thousand would cost seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

_DOTS = 40  # raw values drawn beside the box; more only blacken it


class Spread(msgspec.Struct, frozen=True):
    """Quantiles at 5, 25, 50, 75 and 95 %, and single values: all of few, of many evenly by rank, ends included."""

    n: int
    low: float
    first: float
    middle: float
    third: float
    high: float
    dots: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("there is nothing to draw")
    ordered = sorted(values)
    last = len(ordered) - 1
    low, first, third, high = (ordered[round(share * last)] for share in (0.05, 0.25, 0.75, 0.95))
    if last < _DOTS:
        dots = tuple(ordered)
    else:
        dots = tuple(ordered[round(place * last / (_DOTS - 1))] for place in range(_DOTS))
    return Spread(len(ordered), low, first, statistics.median(ordered), third, high, dots)

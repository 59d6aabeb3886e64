"""Raw values with their summary, and what two such distributions say of each other. Pure.

Medians and their intervals by order statistics, which assume nothing of the distribution and need no random draws:
whoever recomputes them gets the same figures.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

_MIN_FOR_P95 = 20

Value = Annotated[float, Meta(ge=0, le=1e7)]


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """`low` and `high`: a 95 % interval of the median, None under six values. `p95`: None under twenty."""

    values: Annotated[tuple[Value, ...], Meta(min_length=1, max_length=100_000)]
    median: Value
    low: Value | None = None
    high: Value | None = None
    p95: Value | None = None

    def agrees(self, other: Distribution, tolerance: float) -> bool:
        """Whether both summaries are the same up to a share of `tolerance`."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("median", "low", "high", "p95"))
        return all(
            a is b if a is None or b is None else math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12) for a, b in pairs
        )


def distribution(values: Sequence[float]) -> Distribution:
    """`values` with their summary. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    ends = median_interval(ordered)
    return Distribution(
        values=tuple(values),
        median=statistics.median(ordered),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        p95=ordered[math.ceil(round(0.95 * len(ordered), 9)) - 1] if len(ordered) >= _MIN_FOR_P95 else None,
    )


def median_interval(ordered: Sequence[float]) -> tuple[float, float] | None:
    """The order statistics between which the median lies in at least 95 % of cases; None under six values.

    As many of n values lie below the median as n coins show heads, so the ranks are the binomial's. Over 1,000 values
    they are those of the normal approximation, off by one at most: at least 94.6 % there.
    """
    n = len(ordered)
    cut = _left_out(n)
    return (ordered[cut - 1], ordered[n - cut]) if cut else None


@functools.lru_cache(maxsize=1024)
def _left_out(n: int) -> int:
    """How many of n values lie outside on each side, the end of the interval among them."""
    if n > 1000:
        return math.floor(n / 2 - 1.959964 * math.sqrt(n) / 2) + 1
    below, cut = 0, 0
    while (below + math.comb(n, cut)) * 2 <= 0.05 * 2**n:
        below += math.comb(n, cut)
        cut += 1
    return cut

"""The interval of a share: so many of so many. Pure, and here so that evidence and agreement reckon alike."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec

_Z = NormalDist().inv_cdf(0.975)


class Share(msgspec.Struct, frozen=True):
    """`count` of `n`, with its 95 % interval."""

    count: int
    n: int
    value: float
    low: float
    high: float


def share(count: int, n: int) -> Share:
    """With Wilson's interval (1927), which stays within 0 and 1. Raises ValueError where nothing was counted."""
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no share")
    value, squared = count / n, _Z * _Z
    middle = (value + squared / (2 * n)) / (1 + squared / n)
    half = _Z / (1 + squared / n) * math.sqrt(value * (1 - value) / n + squared / (4 * n * n))
    # At the ends the formula gives 0 and 1, up to rounding.
    return Share(count, n, value, 0.0 if count == 0 else middle - half, 1.0 if count == n else middle + half)

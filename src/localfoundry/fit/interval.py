"""A figure with the interval that it is meant to lie in, and where it comes from."""

from __future__ import annotations

from typing import Literal

import msgspec

COVERAGE = 0.9  # share of measurements that intervals are meant to hold
Source = Literal["predicted", "measured here", "measured by others"]


class Interval(msgspec.Struct, frozen=True, gc=False):
    """`low` and `high` enclose 90 % of measurements; docs/fit.md says how often they did."""

    value: float
    low: float
    high: float
    source: Source = "predicted"

    def holds(self, measured: float) -> bool:
        return self.low <= measured <= self.high

    def times(self, factor: float) -> Interval:
        return Interval(self.value * factor, self.low * factor, self.high * factor, self.source)

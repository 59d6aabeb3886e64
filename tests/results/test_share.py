"""The interval of a share against published figures and exact enumeration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.results.share import share


def test_wilson_gives_the_known_interval() -> None:
    """Newcombe (1998), table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611; 29 of 29 is 0.8830 to 1."""
    for passed, n, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)):
        interval = share(passed, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 300), st.data())
def test_wilson_holds_the_share_and_mirrors(n: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, n))
    interval, other = share(passed, n), share(n - passed, n)
    assert 0 <= interval.low <= passed / n <= interval.high <= 1
    assert (1 - other.high, 1 - other.low) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("value", [0.2, 0.5, 0.8, 0.9])
def test_wilson_covers_at_its_stated_rate(value: float) -> None:
    """Exactly, by summing the binomial: between 92 and 98 % at 24 items, as its literature says of it."""
    n = 24
    covered = sum(
        math.comb(n, k) * value**k * (1 - value) ** (n - k)
        for k in range(n + 1)
        if share(k, n).low <= value <= share(k, n).high
    )
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize("passed,n", [(0, 0), (5, 4), (-1, 3)])
def test_what_is_no_share_is_refused(passed: int, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        share(passed, n)

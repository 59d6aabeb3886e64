"""Limits per minute: never more in any sixty seconds, and always room again when it was said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localfoundry.access.limits import WINDOW_S, Meter, Window

GAPS = st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=200)


@given(st.integers(1, 20), GAPS)
def test_no_sixty_seconds_hold_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    window, now = Window(limit), 1000.0
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        if not window.opens_in_s(now):
            window.add(now, 1)
            admitted.append(now)
    for begin in admitted:
        assert sum(begin <= at < begin + WINDOW_S for at in admitted) <= limit


@given(st.integers(1, 50), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 200)), min_size=1, max_size=50))
def test_it_opens_exactly_when_it_says(limit: int, uses: list[tuple[float, int]]) -> None:
    window, now = Window(limit), 0.0
    for gap, amount in uses:
        now += gap
        window.add(now, amount)
    wait = window.opens_in_s(now)
    if wait:
        assert wait <= WINDOW_S + 1
        assert window.left(now + wait - 0.01) == 0
        assert window.left(now + wait + 0.01) > 0
    else:
        assert window.left(now) > 0
    assert window.used(now + window.empty_in_s(now) + 0.01) == 0


@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 9)), max_size=2000))
def test_memory_is_bounded_however_much_is_counted(uses: list[tuple[float, int]]) -> None:
    window, now = Window(5), 0.0
    for gap, amount in uses:
        now += gap * 20
        window.add(now, amount)
        assert len(window._seconds) <= WINDOW_S + 2


def test_a_steady_use_below_the_limit_is_never_refused() -> None:
    window = Window(60)
    for n in range(1000):
        at = n * 1.02
        assert not window.opens_in_s(at)
        window.add(at, 1)


def test_what_is_left_is_told_as_openai_tells_it() -> None:
    meter = Meter(Window(3), Window(100))
    assert meter.requests and meter.tokens
    meter.requests.add(10.5, 2)
    meter.tokens.add(10.5, 250)
    assert meter.headers(10.5) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "61s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "61s",
    }
    assert meter.closed_for_s(10.5) == 60.5
    assert Meter(None, None).closed_for_s(10.5) == 0

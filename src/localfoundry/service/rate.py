"""How fast something comes right now: a sliding window of a few seconds, pure and of fixed size.

Completed requests are too coarse for this: a long answer would count as nothing for a minute and then all at once. So
whoever sees an answer pass adds to it as it passes, from the hot path: one comparison and one addition.
"""

from __future__ import annotations

_WINDOW_S = 5  # short enough to be "now", long enough for a model of one token a second


class Rate:
    """Amounts by whole seconds of the clock given; the second under way and the `_WINDOW_S` before it."""

    __slots__ = ("_amounts", "_seconds")

    def __init__(self) -> None:
        self._amounts = [0.0] * (_WINDOW_S + 1)
        self._seconds = [-1] * (_WINDOW_S + 1)

    def add(self, amount: float, now: float) -> None:
        """`now`: seconds on a monotonic clock, never less than in a call before."""
        second = int(now)
        place = second % (_WINDOW_S + 1)
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._amounts[place] = 0.0
        self._amounts[place] += amount

    def per_second(self, now: float) -> float:
        """Amount per second over the last seconds; 0.0 where nothing came.

        Divided by the time since the first second that is counted began, at least 1 s: a model that has just begun
        is not shown at a fraction of its speed.
        """
        second = int(now)
        kept = [
            (at, amount)
            for at, amount in zip(self._seconds, self._amounts, strict=True)
            if at >= 0 and second - _WINDOW_S <= at <= second
        ]
        if not kept:
            return 0.0
        begin = min(at for at, _ in kept)
        return sum(amount for _, amount in kept) / max(now - begin, 1.0)

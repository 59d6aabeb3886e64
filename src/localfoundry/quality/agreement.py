"""How far two raters agree beyond chance: Cohen's kappa (1960), with an interval. Pure.

    kappa = (observed - expected) / (1 - expected)

`expected` is how often two who choose by lot, each with their own shares, would agree. The interval is Wilson's of the
observed agreement, with `expected` taken as known: unlike the usual standard error it does not shrink to nothing when
two raters agree on all of five pairs. Trade-off: the spread of `expected` is left out; tests hold the coverage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from localfoundry.quality.ranking import Choice
from localfoundry.results.share import share


class Kappa(msgspec.Struct, frozen=True):
    """`n`: pairs that both judged. `value` and the interval are None where both always chose the same."""

    n: int
    observed: float
    expected: float
    value: float | None
    low: float | None
    high: float | None


def kappa(votes: Sequence[tuple[Choice, Choice]]) -> Kappa:
    """Of the choices of two raters on the same pairs. Raises ValueError for none."""
    if not votes:
        raise ValueError("no pair was judged by both")
    n = len(votes)
    first, second = Counter(a for a, _ in votes), Counter(b for _, b in votes)
    expected = sum(first[choice] * second[choice] for choice in first) / n**2
    seen = share(sum(a == b for a, b in votes), n)
    if expected == 1:
        return Kappa(n, seen.value, expected, None, None, None)
    value, low, high = ((observed - expected) / (1 - expected) for observed in (seen.value, seen.low, seen.high))
    return Kappa(n, seen.value, expected, value, low, high)

"""Who stays, how many rounds there is time for, and what may be concluded. Pure: numbers in, values out.

Screening goes by point estimates, as a wrong guess there only costs a candidate. What is concluded rests on rounds of
its own that nobody was chosen by, and on the interval of their paired ratio: the best of ten equals looks better than
the default in the rounds that made it the best, and in new ones it does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from localfoundry.bench.stats import NOISY, Ratio, paired_ratio

SCREEN_ROUNDS = 2
SECOND_ROUNDS = 3
LEAST_ROUNDS = 6  # of a conclusion: below that, the range of all pairs holds the median in less than 95 % of cases
MOST_ROUNDS = 12
_SEARCH_ROUNDS = 150  # that a search takes where nothing stops it: seven files, six options, and their proof
_MOST_TOGETHER = 5
GUARD = 0.2  # of the time that is left, for asking what a winner costs in quality

K = TypeVar("K")
ByRound = Mapping[int, float]


def compared(a: ByRound, b: ByRound) -> Ratio | None:
    """`a` over `b` in the rounds that both have; None without any."""
    common = sorted(a.keys() & b.keys())
    return paired_ratio([a[n] for n in common], [b[n] for n in common]) if common else None


def better(ratio: Ratio | None) -> bool:
    """Whether it is shown to be above 1: enough pairs, and an interval that lies above.

    Ratios that vary too much to say how large a gain is can still say that it is one: where the interval lies above 1
    by more than twice of what they vary.
    """
    if ratio is None or ratio.n < LEAST_ROUNDS or ratio.interval is None or ratio.cv is None:
        return False
    return ratio.interval.low > 1 + (2 * ratio.cv if ratio.verdict == NOISY else 0)


def survivors(gains: Mapping[K, float], above: float = 0.0) -> list[K]:
    """The better half, best first, without those that are not above a limit."""
    ordered = sorted((key for key in gains if gains[key] > above), key=lambda key: -gains[key])
    return ordered[: math.ceil(len(gains) / 2)]


def rounds_in(left_s: float, costs: Sequence[tuple[float, float]], most: int) -> int:
    """How many rounds, up to `most`, there is time for; each cost is (seconds to load, seconds of a round).

    One more round is counted for each, the warm-up.
    """
    loads, each = sum(load for load, _ in costs), sum(one for _, one in costs)
    if each <= 0:
        return most
    return max(min(most, math.floor((left_s - loads) / each) - 1), 0)


def together(budget_s: float, round_s: float) -> int:
    """How many rounds of the bench count as one, where they are so short that the budget has room for more of them.

    Their mean varies less than each does, and what varies too much is never concluded from, however often it is seen.
    """
    return max(min(int(budget_s / (_SEARCH_ROUNDS * round_s)), _MOST_TOGETHER), 1) if round_s > 0 else 1


def affordable(candidates: Sequence[K], left_s: float, cost: tuple[float, float], rounds: int) -> list[K]:
    """As many of the first as there is time for, beside the one that they are compared with."""
    load_s, round_s = cost
    each = load_s + (rounds + 1) * round_s
    return list(candidates[: max(math.floor(left_s / each) - 1, 0)]) if each > 0 else list(candidates)


def smallest_s(cost: tuple[float, float]) -> float:
    """The least time in which one candidate can be compared with the default, twice: to find it and to be sure."""
    load_s, round_s = cost
    proof_s = 2 * (load_s + (LEAST_ROUNDS + 1) * round_s)
    return load_s + 2 * round_s + (screening_s(cost) + proof_s) / (1 - GUARD)


def screening_s(cost: tuple[float, float]) -> float:
    """One candidate beside another."""
    load_s, round_s = cost
    return 2 * (load_s + (SCREEN_ROUNDS + 1) * round_s) * 1.01

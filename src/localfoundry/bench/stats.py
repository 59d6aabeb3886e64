"""Medians, means, their 95 % intervals, and what may be concluded from them. Pure: numbers in, frozen values out.

Leaves collecting to `run` and wording to `report`. The standard library and not a numerical package: a bench has tens
of samples, and importing numpy would cost more time than computing all intervals of a run. Every random draw comes
from a fixed seed, so the same samples always give the same interval.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

CONFIDENCE = 0.95
NOISY_CV = 0.20
RESAMPLES = 2000
RESAMPLED_UP_TO = 100  # values; beyond, the bootstrap's distribution of the median is taken in closed form
_MIN_FOR_RANGE = 6  # values whose range holds the median in 95 of 100 cases: 1 - 2 * 0.5^6 = 0.969
_MIN_FOR_P95 = 20
_MIN_FOR_P99 = 100

# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
# Source: NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2, column 0.975.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

Verdict = Literal["not enough runs", "too noisy to conclude", "no difference shown", "difference shown"]
NOISY: Verdict = "too noisy to conclude"


class Interval(msgspec.Struct, frozen=True):
    """A 95 % interval and how it was made: `t` (means of runs), `bootstrap` (medians, ratios), or the wider of both."""

    low: float
    high: float
    method: Literal["t", "bootstrap", "bootstrap or t"]

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Summary(msgspec.Struct, frozen=True):
    """One metric over the runs of one candidate. None where there are too few runs to say.

    p95 needs 20 values and p99 needs 100: below that they would only repeat the slowest run under a grander name.
    """

    n: int
    mean: float
    mean_interval: Interval | None
    median: float
    median_interval: Interval | None
    p95: float | None
    p99: float | None
    minimum: float
    maximum: float
    cv: float | None

    @property
    def too_noisy(self) -> bool:
        return self.cv is not None and self.cv > NOISY_CV


class Ratio(msgspec.Struct, frozen=True):
    """`a` over `b`, paired: the geometric midpoint of the pairs' ratios, its interval, and what that allows to say.

    `cv` is that of the pairs' ratios: what drifts for both alike does not count as noise.
    """

    n: int
    value: float
    interval: Interval | None
    cv: float | None
    verdict: Verdict


def t_quantile_975(degrees: int) -> float:
    """Two-sided 95 % point of Student's t. Over 30 degrees: Abramowitz and Stegun 26.7.5, error under 0.001."""
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom; at least 1")
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def t_interval(values: Sequence[float]) -> Interval | None:
    """Interval for the mean of runs: mean ± t * s / sqrt(n). None for one value, which says nothing of its spread."""
    if len(values) < 2:
        return None
    middle = statistics.fmean(values)
    half = t_quantile_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(middle - half, middle + half, "t")


def bootstrap_median(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Expanded percentile bootstrap interval for the median (Efron 1979, Hesterberg 2015). None for one value.

    The plain percentiles cover too little: 88 % instead of 95 % at eight values. They are moved outwards to
    Phi(-t * sqrt(n / (n - 1))), which makes up for it. Under six values even all of them hold the median in less than
    95 % (at five 93.75 %, at three 75 %), so there the t interval counts where it is wider.
    tests/bench/test_simulated.py counts the coverage.

    Each resample is used together with its mirror image (rank i becomes n - 1 - i), so that the interval of negated
    values is the negated interval: swapping two candidates must not change what is concluded.
    """
    n = len(values)
    if n < 2:
        return None
    ordered = sorted(values)
    if n > RESAMPLED_UP_TO:
        return _closed_form(ordered)
    draw = random.Random(seed)
    medians: list[float] = []
    for _ in range(RESAMPLES // 2):
        ranks = sorted(draw.choices(range(n), k=n))
        medians.append(_middle([ordered[rank] for rank in ranks]))
        medians.append(_middle([ordered[n - 1 - rank] for rank in reversed(ranks)]))
    medians.sort()
    cut = int(len(medians) * _expanded_tail(n))
    low, high = medians[cut], medians[-1 - cut]
    by_t = t_interval(values) if n < _MIN_FOR_RANGE else None
    if by_t is None or (low <= by_t.low and by_t.high <= high):
        return Interval(low, high, "bootstrap")
    return Interval(min(low, by_t.low), max(high, by_t.high), "bootstrap or t")


def _expanded_tail(n: int) -> float:
    """What to cut off on each side, as a share of the resamples."""
    return statistics.NormalDist().cdf(-t_quantile_975(n - 1) * math.sqrt(n / (n - 1)))


def _closed_form(ordered: Sequence[float]) -> Interval:
    """What resampling tends to: the median of a resample is at most the k-th value when more than half of the draws
    are, which is a binomial with k/n; its normal approximation puts the limits 1.96 * sqrt(n) / 2 ranks off the middle.

    Five thousand samples would otherwise take seconds, for a difference in the fourth digit.
    """
    n = len(ordered)
    half = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * math.sqrt(n) / 2
    low = max(math.floor((n - 1) / 2 - half), 0)
    return Interval(ordered[low], ordered[n - 1 - low], "bootstrap")


def coefficient_of_variation(values: Sequence[float]) -> float | None:
    """Standard deviation over mean: under 0.05 fine, over 0.20 too noisy. None for one value or a mean of 0."""
    if len(values) < 2:
        return None
    middle = statistics.fmean(values)
    return statistics.stdev(values) / abs(middle) if middle else None


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile, `share` above 0 and at most 1: always a value that was measured."""
    ordered = sorted(values)
    # Rounded first: 0.95 * 20 is 19.000000000000004 for some shares, which would skip a rank.
    rank = math.ceil(round(share * len(ordered), 9))
    return ordered[max(rank, 1) - 1]


def summarize(values: Sequence[float], rounds: Sequence[int] | None = None, seed: int = 0) -> Summary | None:
    """Everything about one metric; None where nothing was measured.

    `rounds`: to which round each value belongs, where the values of one round are alike because they ran together.
    Then median, mean, their intervals and the CV are those of the rounds' medians; the percentiles stay those of all.
    """
    if not values:
        return None
    runs = values if rounds is None else _medians(values, rounds)
    return Summary(
        n=len(values),
        mean=statistics.fmean(runs),
        mean_interval=t_interval(runs),
        median=statistics.median(runs),
        median_interval=bootstrap_median(runs, seed),
        p95=percentile(values, 0.95) if len(values) >= _MIN_FOR_P95 else None,
        p99=percentile(values, 0.99) if len(values) >= _MIN_FOR_P99 else None,
        minimum=min(values),
        maximum=max(values),
        cv=coefficient_of_variation(runs),
    )


def _medians(values: Sequence[float], rounds: Sequence[int]) -> list[float]:
    found: dict[int, list[float]] = {}
    for value, number in zip(values, rounds, strict=True):
        found.setdefault(number, []).append(value)
    return [statistics.median(one) for one in found.values()]


def paired_ratio(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Ratio:
    """`a[i] / b[i]` over all pairs, which must be positive and equally many: exp(median(log ratio)).

    The logarithm makes b over a exactly the reciprocal. Raises ValueError for no pairs, unequal lengths or values
    that are not positive.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired")
    if min(*a, *b) <= 0:
        raise ValueError("a ratio needs values above 0")
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    inner = bootstrap_median(logs, seed)
    interval = Interval(math.exp(inner.low), math.exp(inner.high), "bootstrap") if inner else None
    cv = coefficient_of_variation([math.exp(value) for value in logs])
    return Ratio(len(logs), math.exp(statistics.median(logs)), interval, cv, _verdict(interval, cv))


def _verdict(interval: Interval | None, cv: float | None) -> Verdict:
    if interval is None or cv is None:
        return "not enough runs"
    if cv > NOISY_CV:
        return NOISY
    return "no difference shown" if 1.0 in interval else "difference shown"


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

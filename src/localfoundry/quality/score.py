"""What may be concluded from passes and failures. Pure: counts in, frozen values out.

Intervals of shares are Wilson's (`results/share.py`). Two models are compared by the items that both answered:
McNemar's test in its exact binomial form, at any number of items, since items are few and the exact form is cheap.
Several comparisons of one run are corrected together by Holm's method: of twenty pairs of equals one would otherwise
differ at the level of 5 %.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

import msgspec

from localfoundry.quality.results import ItemResult
from localfoundry.results.share import share

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

K = TypeVar("K", bound=Hashable)


class Interval(msgspec.Struct, frozen=True):
    """A 95 % interval."""

    low: float
    high: float


class Score(msgspec.Struct, frozen=True):
    """One model in one suite. `errors` of the `n` items had no answer at all; they count as not passed.

    Time and energy per solved task are those of all items over the number of passes: failures cost too. None where
    nothing was solved, and for energy also where it was not counted for each item.
    """

    model: str
    suite: str
    language: str
    n: int
    passed: int
    errors: int
    accuracy: float
    interval: Interval
    seconds_per_solved: float | None
    joules_per_solved: float | None
    tokens_per_solved: float | None


class Difference(msgspec.Struct, frozen=True):
    """`a` against `b` over the `n` items that both answered. `p`: exact McNemar, two-sided; `adjusted_p`: Holm's.

    `difference` is accuracy of a - accuracy of b, with the adjusted Wald interval of Bonett and Price (2012).
    """

    a: str
    b: str
    suite: str
    language: str
    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    interval: Interval
    p: float
    adjusted_p: float

    @property
    def shown(self) -> bool:
        return self.adjusted_p < LEVEL


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p: where neither is better, each item that one of them solves is a throw of a coin."""
    discordant = only_a + only_b
    if discordant == 0:
        return 1.0
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for being several (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def paired_interval(only_a: int, only_b: int, n: int) -> Interval:
    """For a difference of paired shares: Wald's after one is added to each discordant count (Bonett and Price 2012)."""
    first, second = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _Z * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return Interval(max(-1.0, first - second - half), min(1.0, first - second + half))


def scores(results: Iterable[ItemResult]) -> list[Score]:
    """One for each model, suite and language, in the order in which they first appear."""
    groups: dict[tuple[str, str, str], list[ItemResult]] = {}
    for result in results:
        groups.setdefault((result.suite, result.language, result.model), []).append(result)
    return [_score(group) for group in groups.values()]


def _score(group: Sequence[ItemResult]) -> Score:
    first, solved = group[0], share(sum(result.passed for result in group), len(group))
    passed = solved.count
    joules = [result.energy_j for result in group if result.energy_j is not None]
    tokens = [result.tokens for result in group if result.tokens is not None]
    answered = sum(result.error is None for result in group)
    return Score(
        model=first.model,
        suite=first.suite,
        language=first.language,
        n=len(group),
        passed=passed,
        errors=len(group) - answered,
        accuracy=solved.value,
        interval=Interval(solved.low, solved.high),
        seconds_per_solved=sum(result.seconds for result in group) / passed if passed else None,
        joules_per_solved=sum(joules) / passed if passed and len(joules) == len(group) else None,
        tokens_per_solved=sum(tokens) / passed if passed and len(tokens) >= answered else None,
    )


def differences(results: Sequence[ItemResult]) -> list[Difference]:
    """Every pair of models in every suite and language; items that one of them gave no answer to are left out."""
    tasks: dict[tuple[str, str], dict[str, dict[str, bool]]] = {}
    for result in results:
        models = tasks.setdefault((result.suite, result.language), {})
        answers = models.setdefault(result.model, {})
        if result.error is None:
            answers[result.item] = result.passed
    pairs = (
        difference(a, b, suite, language, models[a], models[b])
        for (suite, language), models in tasks.items()
        for a, b in itertools.combinations(models, 2)
    )
    found = [pair for pair in pairs if pair is not None]
    adjusted = holm([pair.p for pair in found])
    return [msgspec.structs.replace(pair, adjusted_p=p) for pair, p in zip(found, adjusted, strict=True)]


def difference(
    a: str, b: str, suite: str, language: str, of_a: Mapping[K, bool], of_b: Mapping[K, bool]
) -> Difference | None:
    """Of two models by what each solved of the items that both answered, alone in its family of tests; None for no
    such item."""
    common = of_a.keys() & of_b.keys()
    if not common:
        return None
    both = sum(of_a[item] and of_b[item] for item in common)
    only_a = sum(of_a[item] and not of_b[item] for item in common)
    only_b = sum(of_b[item] and not of_a[item] for item in common)
    n = len(common)
    p = mcnemar(only_a, only_b)
    return Difference(
        a, b, suite, language, n, both, only_a, only_b, n - both - only_a - only_b,
        (only_a - only_b) / n, paired_interval(only_a, only_b, n), p, p,
    )  # fmt: skip

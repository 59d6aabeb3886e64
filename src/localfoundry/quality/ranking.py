"""Strengths of models from votes between two answers, by Bradley and Terry's model with Davidson's ties. Pure.

Davidson's ties and not half a win for each: a tie then says that the two are close, and counts as one vote with three
outcomes; half wins would put the spread of coins where there is none and make intervals too wide. Points (wins plus
half the ties) are what its likelihood looks at, so the estimates rank as half wins do. The fit is `davidson`'s.

Intervals are profile likelihood (with Student's t, see `critical`), not bootstrap: resampling five votes that all went
one way shows no spread at all, and would name a winner after one vote.

Votes of several people on one pair of answers share the weight of one: asking more people about the same answers says
more of these answers and no more of other prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import msgspec

from localfoundry.quality.davidson import Fit, Pair, Tally

Choice = Literal["a", "b", "tie"]

CONFIDENCE = 0.95
POWER = 0.8
MOST_VOTES = 10_000  # beyond it the estimate says only "more than"
FEWEST_ITEMS = 6  # five coins fall the same way once in 16 times, six once in 32: from there on it is under 5 %
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


class Duel(msgspec.Struct, frozen=True):
    """One vote. `item` names the prompt: votes on the same item and pair share one vote's weight."""

    item: Hashable
    a: str
    b: str
    choice: Choice


class Interval(msgspec.Struct, frozen=True):
    """A 95 % profile likelihood interval, with Student's t in place of the normal."""

    low: float
    high: float


class Strength(msgspec.Struct, frozen=True):
    """`value` is on the scale of logits; the mean over all models is 0. `votes`: those that it took part in."""

    model: str
    value: float
    interval: Interval
    votes: int


class Difference(msgspec.Struct, frozen=True):
    """`a` less `b`. `preferred`: how often `a` is chosen where one of the two is, as estimated.

    `more_votes`: an estimate of how many more items have to be voted on for a chance of 80 % that a difference as
    large as it looks now is shown; None where one is shown, or where it would take more than `MOST_VOTES`.
    """

    a: str
    b: str
    value: float
    interval: Interval
    preferred: float
    items: int
    more_votes: int | None

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out, on enough items; on fewer the likelihood's approximation is too bold."""
        return self.items >= FEWEST_ITEMS and not self.interval.low <= 0 <= self.interval.high


class Ranking(msgspec.Struct, frozen=True):
    """Strongest first. `winner` is None until its difference to every other model is shown.

    No correction for the number of models is needed there: all differences have to be shown, and the chance of naming
    one of two equal leaders stays near 5 % (reckoned exactly for 6 to 60 votes without ties: at most 6.4 %). It does
    not stay there for who looks after every vote and stops when pleased.
    """

    strengths: tuple[Strength, ...]
    differences: tuple[Difference, ...]
    votes: int
    ties: int

    @property
    def winner(self) -> str | None:
        if len(self.strengths) < 2:
            return None
        best = self.strengths[0].model
        return best if all(d.shown for d in self.differences if d.a == best) else None

    @property
    def more_votes(self) -> int | None:
        """More items until a winner is likely shown, by the closest rival. None: over `MOST_VOTES`, or there is one."""
        if self.winner is not None or not self.differences:
            return None
        open_ones = [d.more_votes for d in self.differences if d.a == self.strengths[0].model and not d.shown]
        return None if None in open_ones else max((n for n in open_ones if n is not None), default=None)


def rank(duels: Iterable[Duel]) -> Ranking:
    """Strengths of every model that was voted on, with the differences of all pairs."""
    kept = list(duels)
    models = sorted({name for duel in kept for name in (duel.a, duel.b)})
    if any(duel.a == duel.b for duel in kept):
        raise ValueError("a model cannot be compared with itself")
    places = {model: place for place, model in enumerate(models)}
    fit = Fit(len(models), _tally(kept, places))
    met = _items_met(kept, places)
    items = len({duel.item for duel in kept})
    values = fit.best[:-1]
    mean = sum(values) / len(values) if values else 0.0
    order = sorted(range(len(models)), key=lambda place: (-values[place], models[place]))
    reach = critical(items)
    strengths = []
    for place in order:
        contrast = [(place == other) - 1 / len(models) for other in range(len(models))]
        votes = sum(models[place] in (duel.a, duel.b) for duel in kept)
        strengths.append(Strength(models[place], values[place] - mean, Interval(*fit.interval(contrast, reach)), votes))
    differences = [
        _difference(fit, models, (a, b), met.get((min(a, b), max(a, b)), 0)) for a, b in combinations(order, 2)
    ]
    return Ranking(tuple(strengths), tuple(differences), len(kept), sum(duel.choice == "tie" for duel in kept))


def _difference(fit: Fit, models: Sequence[str], pair: Pair, items: int) -> Difference:
    a, b = pair
    contrast = [float(place == a) - float(place == b) for place in range(len(models))]
    value = fit.best[a] - fit.best[b]
    preferred = 1 / (1 + math.exp(-value))
    interval = Interval(*fit.interval(contrast, critical(items)))
    found = Difference(models[a], models[b], value, interval, preferred, items, None)
    if found.shown:
        return found
    more = votes_needed(value, fit.spread(contrast), max(items, 1))
    return msgspec.structs.replace(found, more_votes=None if more is None else max(more, FEWEST_ITEMS - items))


def critical(items: int) -> float:
    """How many standard errors an interval reaches: Student's t, 95 %, with one degree of freedom less than items.

    The normal's 1.96 would name a winner between equals in 9 % of ratings with 13 votes. Under six items, where nothing
    is shown anyway, it is that of six. Abramowitz and Stegun 26.7.5, off by under 0.003 from there on.
    """
    degrees = max(items, FEWEST_ITEMS) - 1
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(degrees**power) for power, term in enumerate(terms, 1))


def votes_needed(difference: float, spread: float, items: int) -> int | None:
    """How many more items until a difference is shown with a chance of 80 %, if it is as large as it looks.

    Normal approximation: its standard error `spread` after `items` items shrinks with the root of their number, and
    (1.96 + 0.84) standard errors have to fit into the difference. None for more than `MOST_VOTES`.
    """
    need = _Z + NormalDist().inv_cdf(POWER)
    if abs(difference) * math.sqrt(MOST_VOTES) <= need * spread * math.sqrt(items):
        return None
    total = items * (need * spread / difference) ** 2
    more = max(1, math.ceil(total - items))
    return more if more <= MOST_VOTES else None


def _tally(duels: Sequence[Duel], places: Mapping[str, int]) -> Tally:
    """Weighted wins, losses and ties of each pair, the lower place first."""
    groups: dict[tuple[Hashable, Pair], list[Choice]] = {}
    for duel in duels:
        first, second = places[duel.a], places[duel.b]
        choice = duel.choice
        if first > second:
            first, second = second, first
            choice = _TURNED[choice]
        groups.setdefault((duel.item, (first, second)), []).append(choice)
    counts: dict[Pair, list[float]] = {}
    for (_, pair), choices in groups.items():
        row = counts.setdefault(pair, [0.0, 0.0, 0.0])
        for choice in choices:
            row[_COLUMN[choice]] += 1 / len(choices)
    return {pair: (row[0], row[1], row[2]) for pair, row in sorted(counts.items())}


def _items_met(duels: Sequence[Duel], places: Mapping[str, int]) -> dict[Pair, int]:
    """On how many items each pair was voted on."""
    pairs = ((duel.item, places[duel.a], places[duel.b]) for duel in duels)
    return Counter((min(a, b), max(a, b)) for _, a, b in {(item, min(a, b), max(a, b)) for item, a, b in pairs})


_TURNED: Mapping[Choice, Choice] = {"a": "b", "b": "a", "tie": "tie"}
_COLUMN: Mapping[Choice, int] = {"a": 0, "b": 1, "tie": 2}

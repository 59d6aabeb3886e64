"""Which wishes exclude everything: how many candidates each leaves alone, and the fewest that leave none together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from localfoundry.advice.misses import Miss
from localfoundry.advice.wishes import Key


@dataclass(frozen=True, slots=True)
class Conflict:
    """`alone`: for each wish, how many candidates pass it. `together`: a smallest set that nobody passes."""

    alone: tuple[tuple[Key, int], ...]
    together: tuple[Key, ...]


def explain(missed: Iterable[Sequence[Miss]], keys: Sequence[Key]) -> Conflict | None:
    """None where somebody passes all of `keys`; `missed` has an entry for each candidate.

    Candidates that miss the same wishes are one case, so that every combination of wishes can be tried.
    """
    cases = Counter(frozenset(miss.key for miss in misses) for misses in missed)
    if frozenset() in cases:
        return None
    alone = tuple((key, _left(cases, (key,))) for key in keys)
    for size in range(len(keys) + 1):  # no wish at all leaves nobody only where there are no candidates
        for together in combinations(keys, size):
            if not _left(cases, together):
                return Conflict(alone, together)
    raise AssertionError("nobody passes all wishes, and somebody every combination of them")


def _left(cases: Counter[frozenset[Key]], wished: tuple[Key, ...]) -> int:
    return sum(count for missed, count in cases.items() if missed.isdisjoint(wished))

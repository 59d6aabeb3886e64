"""Which models to take: those that pass every wish and are not shown to be worse than another, with reasons.

What is weighed is quality, speed, first token, memory and disk. Nothing is summed up into one score: a candidate goes
only where another is shown to be no worse in all five and better in one (`dominance.py`). Where quality was never
measured nothing can be shown that way; then the whole set stays, there is no winner, and the command that would settle
it is named. The answer does not depend on the order of the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from localfoundry.advice import conflict, loosening
from localfoundry.advice.conflict import Conflict
from localfoundry.advice.dominance import Range, beats, dominators
from localfoundry.advice.figures import speed
from localfoundry.advice.loosening import AtContext, Changed
from localfoundry.advice.misses import Miss, checker
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.quality import Evidence, Known, find_out, order
from localfoundry.advice.reasons import Ends, reasons
from localfoundry.advice.wishes import Wishes
from localfoundry.fit.interval import Interval

_TRIED = 8  # candidates for which one wish is loosened, the nearest first
_MOST_TRIED = 64  # and for which several are


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant with what is known of its quality at the task that is asked for."""

    prospect: Prospect
    quality: Evidence | None

    @property
    def id(self) -> str:
        return self.prospect.variant


@dataclass(frozen=True, slots=True)
class Choice:
    """One that is worth taking, and why, in sentences."""

    candidate: Candidate
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One that is not: the wishes that it misses, or the one that is shown to be better and in what."""

    candidate: Candidate
    misses: tuple[Miss, ...]
    dominated_by: str | None = None
    better_in: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        if self.misses:
            return self.misses[0].words
        return f"{self.dominated_by} is shown to be no worse in anything, and better in {', '.join(self.better_in)}"


@dataclass(frozen=True, slots=True)
class Change:
    """Other wishes, in words, that would bring a candidate in, as was tried; `goes_out` are those that it beats."""

    words: str
    wishes: Wishes
    comes_in: Candidate
    goes_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`chosen` and `others` are the Pareto set. `winner` has the highest quality, shown; None: nobody is shown to.

    `measured` counts those that pass and whose quality was measured. `find_out` is the command that would tell.
    `nearest` are the wishes, as little loosened as can be, that someone passes; it and `conflict` are there where
    nobody passes.
    """

    wishes: Wishes
    candidates: int
    passing: int
    chosen: tuple[Choice, ...]
    others: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    changes: tuple[Change, ...]
    winner: str | None = None
    measured: int = 0
    find_out: str | None = None
    conflict: Conflict | None = None
    nearest: Wishes | None = None


def recommend(
    prospects: Iterable[Prospect], wishes: Wishes, evidence: Iterable[Evidence] = (), *, top: int = 3,
    at: AtContext = lambda prospect, tokens: prospect,
) -> Recommendation:  # fmt: skip
    """Pure; the prospects' context and machine must be those of the wishes. Variants are told apart by their id.

    `at` computes a prospect anew for another context, where one is tried; left out, `largest_context` is believed.
    """
    known = Known(evidence, wishes.task, wishes.language)
    field = [Candidate(p, known.of(p.alias, p.variant)) for p in sorted(prospects, key=lambda p: (p.variant, p.alias))]
    check = checker(wishes)
    missed = [check(candidate.prospect) for candidate in field]
    passing = [candidate for candidate, misses in zip(field, missed, strict=True) if not misses]
    beaten = _beaten(wishes.task, passing)
    best = [candidate for candidate in passing if candidate.id not in beaten]
    ordered = _ordered(wishes.task, best)
    chosen = _distinct(ordered, top)
    taken = {candidate.id for candidate in chosen}
    outside = [(candidate, misses) for candidate, misses in zip(field, missed, strict=True) if misses]
    attempt = _Attempt(wishes, best, at)
    ends = Ends(wishes.task, [candidate.prospect for candidate in best])
    return Recommendation(
        wishes=wishes,
        candidates=len(field),
        passing=len(passing),
        chosen=tuple(Choice(c, reasons(wishes, c.prospect, c.quality, ends)) for c in chosen),
        others=tuple(candidate for candidate in ordered if candidate.id not in taken),
        left_out=(*(LeftOut(*each) for each in outside), *beaten.values()),
        changes=tuple(_changes(attempt, outside, ordered[0].quality if ordered else None)),
        winner=_winner(passing),
        measured=len(_scores(passing)),
        find_out=_find_out(wishes.task, ordered, _winner(passing)),
        conflict=conflict.explain(missed, wishes.keys),
        nearest=None if passing else _nearest(attempt, outside),
    )


def _beaten(task: str, candidates: Sequence[Candidate]) -> dict[str, LeftOut]:
    """Those that another one is shown to beat: both were measured, else nothing is shown."""
    candidates = [candidate for candidate in candidates if _measured(candidate)]
    points = [_point(task, candidate) for candidate in candidates]
    found = {}
    for candidate, own, by in zip(candidates, points, dominators(points), strict=True):
        if by is not None:
            better = tuple(name for name, a, b in zip(_NAMES, points[by], own, strict=True) if a and b and a[0] > b[1])
            found[candidate.id] = LeftOut(candidate, (), candidates[by].id, better)
    return found


_NAMES = ("quality", "speed", "first token", "memory", "disk")


def _point(task: str, candidate: Candidate) -> tuple[Range | None, ...]:
    """In each of `_NAMES` the worst and the best that it may be, more being better; None: not known."""
    p = candidate.prospect
    size = None if p.disk_bytes is None else (-float(p.disk_bytes), -float(p.disk_bytes))
    quality = candidate.quality.corner if candidate.quality else None
    return quality, _more(speed(task, p)), _less(p.first_token_s), _less(p.memory), size


def _measured(candidate: Candidate) -> bool:
    return candidate.quality is not None and candidate.quality.corner is not None


def _more(interval: Interval | None) -> Range | None:
    return None if interval is None else (interval.low, interval.high)


def _less(interval: Interval | None) -> Range | None:
    return None if interval is None else (-interval.high, -interval.low)


def _ordered(task: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """By the evidence of quality; where there is none, no rank but a span: the fastest, the largest, and between."""
    with_evidence = [c for c in candidates if c.quality is not None]
    ranked = sorted(with_evidence, key=lambda c: (order(c.quality), _size(c), c.id))
    without = sorted((c for c in candidates if c.quality is None), key=lambda c: (_slowness(task, c), c.id))
    return ranked + [without[i] for i in _spread(len(without))]


def _size(candidate: Candidate) -> float:
    return candidate.prospect.memory.value if candidate.prospect.memory else float("inf")


def _slowness(task: str, candidate: Candidate) -> float:
    found = speed(task, candidate.prospect)
    return -found.value if found else float("inf")


def _spread(count: int) -> list[int]:
    """0 to count - 1: both ends first, then the middles of what is left, so that any first few span the whole."""
    found = list(range(count))[:1] + ([count - 1] if count > 1 else [])
    gaps = [(0, count - 1)]
    for low, high in gaps:  # grows while it is read
        middle = (low + high) // 2
        if middle > low:
            found.append(middle)
            gaps += [(low, middle), (middle, high)]
    return found


def _distinct(ordered: Sequence[Candidate], top: int) -> list[Candidate]:
    """The first ones, each model once while there are others."""
    first: dict[str, Candidate] = {}
    for candidate in ordered:
        first.setdefault(candidate.prospect.alias, candidate)
    again = [candidate for candidate in ordered if first[candidate.prospect.alias] is not candidate]
    return [*first.values(), *again][:top]


def _scores(passing: Iterable[Candidate]) -> dict[str, Range]:
    """Intervals of what was measured, by id."""
    corners = ((c.id, c.quality.corner) for c in passing if c.quality is not None)
    return {name: corner for name, corner in corners if corner is not None}


def _winner(passing: Iterable[Candidate]) -> str | None:
    """The best measured quality, if its interval lies above those of all others that pass and were measured."""
    scores = _scores(passing)
    if len(scores) < 2:
        return None
    name = max(scores, key=lambda name: (scores[name], name))
    return name if all(scores[name][0] > high for other, (_, high) in scores.items() if other != name) else None


def _find_out(task: str, ordered: Sequence[Candidate], winner: str | None) -> str | None:
    """What to run where there is no winner; the first two are worth comparing first."""
    if winner or len(ordered) < 2:
        return None
    first = _distinct(ordered, 2)
    return find_out(task, [candidate.id for candidate in first], measured=len(_scores(first)) == 2)


class _Attempt:
    """Other wishes, tried: what comes in, and who of the set would go."""

    def __init__(self, asked: Wishes, best: Sequence[Candidate], at: AtContext) -> None:
        self.asked = asked
        self.at = at
        self._best = [(candidate.id, _point(asked.task, candidate)) for candidate in best if _measured(candidate)]

    def passed(self, candidate: Candidate, changed: Changed) -> Wishes | None:
        """The other wishes, if the candidate passes them."""
        return loosening.confirmed(self.asked, changed, candidate.prospect, self.at)

    def change(self, candidate: Candidate, changed: Changed) -> Change | None:
        """None where the candidate still does not pass, or would be beaten."""
        wishes = self.passed(candidate, changed)
        if wishes is None:
            return None
        own = _point(self.asked.task, candidate)
        if any(beats(point, own) for _, point in self._best):
            return None
        goes_out = tuple(sorted(name for name, point in self._best if beats(own, point)))
        return Change(loosening.words(self.asked, wishes), wishes, candidate, goes_out)


def _changes(
    attempt: _Attempt, outside: Sequence[tuple[Candidate, tuple[Miss, ...]]], first: Evidence | None
) -> list[Change]:
    """For each way to loosen a wish: the least that brings one in, and the least that brings a better one in."""
    tries: dict[tuple[str, int], list[tuple[float, Candidate, Changed]]] = {}
    for candidate, missed in outside:
        if len(missed) == 1:
            for number, (far, changed) in enumerate(loosening.ways(attempt.asked, candidate.prospect, missed[0])):
                tries.setdefault((missed[0].key, number), []).append((far, candidate, changed))
    found: dict[str, Change] = {}
    for each in tries.values():
        each.sort(key=lambda t: (t[0], order(t[1].quality), t[1].id))
        for better in (False, True):
            worth = [t for t in each if not better or order(t[1].quality) < order(first)][:_TRIED]
            changes = (attempt.change(candidate, changed) for _, candidate, changed in worth)
            change = next((change for change in changes if change is not None), None)
            if change is not None:
                found.setdefault(change.comes_in.id, change)
    return list(found.values())


def _nearest(attempt: _Attempt, outside: Sequence[tuple[Candidate, tuple[Miss, ...]]]) -> Wishes | None:
    """The wishes that have to be loosened least, in sum, for someone to pass."""
    found = [
        (loosened[0], candidate.id, loosened[1], candidate)
        for candidate, missed in outside
        if (loosened := loosening.least(attempt.asked, candidate.prospect, missed)) is not None
    ]
    ordered = sorted(found, key=lambda each: each[:2])[:_MOST_TRIED]
    tried = (attempt.passed(candidate, changed) for _, _, changed, candidate in ordered)
    return next((wishes for wishes in tried if wishes is not None), None)

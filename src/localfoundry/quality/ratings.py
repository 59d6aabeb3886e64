"""Blind votes between two answers to a prompt: who meets whom, in which order, and what the votes amount to. Pure.

Every pair of models meets once on every prompt. Over the prompts of a pair each of the two stands first half of the
time (one more where they are odd), drawn by lot from seed and rater, so that neither place nor order tells a model.
Criteria are the course's four. Speed is judged too and not computed: whether a second matters is the rater's to say;
the times are shown without names, and only when the other criteria have been voted on, which they would colour.

A judge that is a model votes under `judge:NAME` in both orders of each pair. Its votes never count with people's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import Literal

import msgspec

from localfoundry.quality.agreement import Kappa, kappa
from localfoundry.quality.ranking import Choice, Duel, Ranking, rank
from localfoundry.results.rows import VoteRow
from localfoundry.results.share import Share, share

Criterion = Literal["accuracy", "clarity", "completeness", "speed"]
CRITERIA: tuple[Criterion, ...] = ("accuracy", "clarity", "completeness", "speed")
QUESTIONS = {
    "accuracy": "Which one is more correct?",
    "clarity": "Which one is easier to understand?",
    "completeness": "Which one answers more of the question?",
    "speed": "Which one came fast enough for you, where the other did not?",
}
TIE = "tie"
JUDGE = "judge:"


class Question(msgspec.Struct, frozen=True):
    """A prompt that every model answers. `suite`, `language` and `item` name it."""

    suite: str
    item: str
    language: str
    prompt: str


class Answer(msgspec.Struct, frozen=True):
    """What a model answered; what `item.raw` holds of a rating. Seconds since the request was sent."""

    prompt: str = ""
    answer: str = ""
    ttft_s: float | None = None
    seconds: float | None = None
    error: str | None = None


class Pairing(msgspec.Struct, frozen=True):
    """Two models on one question, `a` before `b` in the alphabet; `first` is the one that is shown first."""

    question: Question
    a: str
    b: str
    first: str

    @property
    def second(self) -> str:
        return self.b if self.first == self.a else self.a


class Itself(msgspec.Struct, frozen=True):
    """How often a judge contradicted itself when the two answers changed places; then it counts as a tie."""

    judge: str
    share: Share


class Agreement(msgspec.Struct, frozen=True):
    first: str
    second: str
    kappa: Kappa


class Verdict(msgspec.Struct, frozen=True):
    """What the votes on one criterion say. `shown_first`: of the votes that were no tie, those for the first answer."""

    criterion: str
    ranking: Ranking
    raters: tuple[str, ...]
    shown_first: Share | None
    agreements: tuple[Agreement, ...] = ()
    itself: Itself | None = None


def pairings(questions: Sequence[Question], labels: Iterable[str], rater: str, seed: int) -> list[Pairing]:
    """All of them in the order in which `rater` gets them; the same arguments give the same list."""
    found = []
    for a, b in combinations(sorted(set(labels)), 2):
        lot = _lot(seed, rater, a, b)
        order = sorted(questions, key=lambda q: lot(q.suite, q.language, q.item))
        turn = lot("first")[0] % 2
        found += [Pairing(q, a, b, (a, b)[(place + turn) % 2]) for place, q in enumerate(order)]
    lot = _lot(seed, rater)
    return sorted(found, key=lambda p: lot(p.question.suite, p.question.language, p.question.item, p.a, p.b))


def _lot(*of: object) -> Callable[..., bytes]:
    return lambda *more: hashlib.sha256(repr((of, more)).encode()).digest()


def still_open(
    all_pairings: Sequence[Pairing], criteria: Sequence[str], votes: Iterable[VoteRow], rater: str
) -> list[tuple[Pairing, str]]:
    """What `rater` has not voted on, pair by pair, the criteria in the order of `CRITERIA`."""
    done = {(v.suite, v.item, v.a, v.b, v.criterion) for v in votes if v.rater == rater}
    return [
        (pairing, criterion)
        for pairing in all_pairings
        for criterion in CRITERIA
        if criterion in criteria
        and (pairing.question.suite, item_key(pairing.question), pairing.a, pairing.b, criterion) not in done
    ]


def item_key(question: Question) -> str:
    """As votes name a question: they have no column for its language."""
    return f"{question.item}.{question.language}"


def vote(run: str, pairing: Pairing, rater: str, criterion: str, choice: str, at: str) -> VoteRow:
    """`choice` is a label or `tie`."""
    question = pairing.question
    return VoteRow(
        run, rater, criterion, question.suite, item_key(question), pairing.a, pairing.b, pairing.first, choice, at
    )


def verdicts(votes: Iterable[VoteRow]) -> list[Verdict]:
    """What people's votes say, one for each criterion that was voted on. Votes of judges are left out."""
    kept = [v for v in votes if not v.rater.startswith(JUDGE)]
    return [_verdict(name, [v for v in kept if v.criterion == name]) for name in _criteria(kept)]


def _verdict(criterion: str, votes: Sequence[VoteRow]) -> Verdict:
    raters = tuple(sorted({v.rater for v in votes}))
    duels = [Duel(_place(v), v.a, v.b, _choice(v)) for v in votes]
    agreements = []
    for first, second in combinations(raters, 2):
        of_first, of_second = ({_place(v): _choice(v) for v in votes if v.rater == name} for name in (first, second))
        both = [(of_first[place], of_second[place]) for place in of_first if place in of_second]
        if both:
            agreements.append(Agreement(first, second, kappa(both)))
    return Verdict(criterion, rank(duels), raters, _shown_first(votes), tuple(agreements))


def judgements(votes: Iterable[VoteRow]) -> list[Verdict]:
    """What each judge's votes say, by criterion. A pair counts once both orders were asked; two verdicts make one."""
    kept = [v for v in votes if v.rater.startswith(JUDGE)]
    found = [
        _judgement(judge, criterion, [v for v in kept if (v.rater, v.criterion) == (judge, criterion)])
        for judge in sorted({v.rater for v in kept})
        for criterion in CRITERIA
    ]
    return [one for one in found if one.itself is not None]


def _judgement(judge: str, criterion: str, votes: Sequence[VoteRow]) -> Verdict:
    orders: dict[Hashable, dict[str, VoteRow]] = {}
    for v in votes:
        orders.setdefault(_place(v), {})[v.shown_first] = v
    whole = [tuple(both.values()) for both in orders.values() if len(both) == 2]
    duels, against_itself = [], 0
    for one, other in whole:
        agrees = one.choice == other.choice
        against_itself += not agrees
        duels.append(Duel(_place(one), one.a, one.b, _choice(one) if agrees else "tie"))
    itself = Itself(judge, share(against_itself, len(whole))) if whole else None
    counted = [v for both in whole for v in both]
    return Verdict(criterion, rank(duels), (judge,), _shown_first(counted), itself=itself)


def _criteria(votes: Sequence[VoteRow]) -> list[str]:
    there = {v.criterion for v in votes}
    return [name for name in CRITERIA if name in there]


def _place(v: VoteRow) -> tuple[str, str, str, str, str]:
    return v.run, v.suite, v.item, v.a, v.b


def _choice(v: VoteRow) -> Choice:
    return "a" if v.choice == v.a else "b" if v.choice == v.b else "tie"


def _shown_first(votes: Sequence[VoteRow]) -> Share | None:
    decided = [v for v in votes if v.choice != TIE]
    return share(sum(v.choice == v.shown_first for v in decided), len(decided)) if decided else None

"""What a faster way of loading costs in quality, and whether that is shown to be within a bound.

Where the source weights' own answers are known (`quality/reference.py`), the loss is by how much the perplexity of
their text is higher than with the default, position by position. Where not, it is by how much the perplexity of the
default's own text would be higher: exp(KL divergence) - 1, since the mean of log p/q over text drawn from p is that
divergence. Beside it items of tasks are put to both, and McNemar's test says whether the candidate is worse at them.

What is not shown to be within the bound is refused: with too few positions the interval is wide, and that is no proof.
It is Student's, over the means of passages, as positions of one passage hang together and there may be few passages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from localfoundry.bench import stats
from localfoundry.quality import fidelity
from localfoundry.quality.fidelity import Estimate, Position
from localfoundry.quality.reference import Row
from localfoundry.quality.score import LEVEL, difference

MAX_LOSS = 0.02


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """`perplexity`: times the default's, with its 95 % interval. `within`: shown to be under the bound."""

    within: bool
    words: str
    perplexity: Estimate | None = None
    kl: Estimate | None = None
    top1: Estimate | None = None
    positions: int = 0
    items: int = 0
    worse: int = 0  # items that only the default solved
    better: int = 0  # items that only the candidate solved

    @classmethod
    def none(cls) -> Loss:
        """Of a setting that reads the same file with the same engine and arithmetic."""
        return cls(within=True, words="the same file, engine and arithmetic")


def against_reference(base: Sequence[Position], candidate: Sequence[Position]) -> list[Position]:
    """Positions that hold the candidate's distance from the default, given each one's from the source weights."""
    return [
        msgspec.structs.replace(mine, log_ratio=mine.log_ratio - its.log_ratio)
        for its, mine in zip(base, candidate, strict=True)
    ]


def against_default(place: tuple[int, int], base: Mapping[int, float], candidate: Mapping[int, float]) -> Position:
    """One position of a text without a reference; `place`: its passage and number."""
    ordered = sorted(base, key=lambda token: -base[token])
    logprobs = tuple(base[token] for token in ordered)
    tail = max(1 - sum(math.exp(value) for value in logprobs), 0.0)
    row = Row(*place, tuple(ordered), logprobs, tail, ordered[0], logprobs[0])
    found = fidelity.compare(row, candidate)
    assert found.kl is not None
    return msgspec.structs.replace(found, log_ratio=found.kl)


def judged(
    positions: Sequence[Position], bound: float, of_base: Mapping[str, bool], of_candidate: Mapping[str, bool],
    unavailable: str | None = None,
) -> Loss:  # fmt: skip
    """The verdict. `of_base`, `of_candidate`: which items each solved."""
    found = fidelity.summary(positions, [])
    tasks = difference("default", "candidate", "tasks", "en", dict(of_base), dict(of_candidate))
    worse, better = (tasks.only_a, tasks.only_b) if tasks else (0, 0)
    known = Loss(
        within=False, words="", perplexity=_ratio(positions), kl=found.kl, top1=found.top1, positions=found.positions,
        items=tasks.n if tasks else 0, worse=worse, better=better,
    )  # fmt: skip
    words = _against(known, bound, tasks.p if tasks else 1.0, unavailable)
    within = words is None
    words = words or f"{_shown(known.perplexity)}, within {bound:.1%}"
    return msgspec.structs.replace(known, within=within, words=words)


def _ratio(positions: Sequence[Position]) -> Estimate | None:
    """Of perplexities, with its interval; None with fewer than two passages."""
    passages: dict[int, list[float]] = {}
    for position in positions:
        passages.setdefault(position.chunk, []).append(position.log_ratio)
    around = stats.t_interval([sum(values) / len(values) for values in passages.values()])
    if around is None:
        return None
    mean = sum(position.log_ratio for position in positions) / len(positions)
    half = (around.high - around.low) / 2
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _against(known: Loss, bound: float, p: float, unavailable: str | None) -> str | None:
    """Why it is not shown to be within the bound; None: it is."""
    if known.perplexity is None:
        return f"what it costs in quality is not known: {unavailable or 'there was no time for it'}"
    if p < LEVEL and known.worse > known.better:
        return f"it loses {known.worse} of {known.items} items and wins {known.better} (p {p:.3f})"
    if known.perplexity.high - 1 <= bound:
        return None
    over = "over" if known.perplexity.low - 1 > bound else "not shown to be within"
    return f"{_shown(known.perplexity)} is {over} the bound of {bound:.1%}"


def _shown(ratio: Estimate | None) -> str:
    if ratio is None:
        return "perplexity unknown"
    return f"perplexity {ratio.value - 1:+.1%} ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"

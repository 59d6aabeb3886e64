"""How far the answers of an engine with a file are from those of the source weights in float32: pure arithmetic.

An engine gives the likeliest tokens of a position, and so does the reference: neither gives the whole vocabulary. Both
distributions are therefore compared over the tokens that both name, and one cell that holds all others. Merging cells
can only lessen a divergence, so the KL divergence here is a lower bound, and is called one; with 64 tokens little is
lost. The perplexity ratio is that of the token that follows; where the engine does not name it, that of the cell it is
in, so that no position is left out.

Intervals: 95 %, by drawing the chunks of the text again (a bootstrap), since positions of one chunk hang together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import msgspec

from localfoundry.quality.reference import Row

# What counts as faithful: perplexity within 1 % of float32, and the same likeliest token nine times in ten.
PERPLEXITY_BOUND = 0.01
TOP1_BOUND = 0.9
_DRAWS = 2000
_LEAST = 1e-9  # of the mass of a cell: a rounded sum of probabilities can pass 1

DEFINITIONS = {
    "KL": "mean KL divergence, nats, of the next token's distribution from that of the source weights in float32; a "
    "lower bound: the likeliest tokens each, all others as one",
    "top-1": "positions where the likeliest token is the same; of tokens that tie, the share",
    "perplexity": "perplexity of the text over that by the source weights; for a token that the engine does not name, "
    "that of all others together",
    "greedy": "share of an answer's tokens before the first that differs, the likeliest token taken each time",
}


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Position(msgspec.Struct, frozen=True):
    """One position compared. `log_ratio`: log-probability of the token that follows, float32's less the engine's.

    None: only that log-probability is known of the engine.
    """

    chunk: int
    kl: float | None
    top1: float | None
    log_ratio: float


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one engine with one file. None: the engine gives no log-probabilities; `unavailable` says why.

    `within`: whether the perplexity is shown to be within 1 % of float32 and the likeliest token mostly the same.
    """

    positions: int
    kl: Estimate | None = None
    top1: Estimate | None = None
    perplexity: Estimate | None = None
    greedy: Estimate | None = None
    identical_answers: int = 0
    answers: int = 0
    unavailable: str | None = None

    @property
    def within(self) -> bool | None:
        """None: the interval leaves it open."""
        if self.perplexity is None or self.top1 is None:
            return None
        low, high = self.perplexity.low - 1, self.perplexity.high - 1
        if self.top1.high < TOP1_BOUND or low > PERPLEXITY_BOUND or high < -PERPLEXITY_BOUND:
            return False
        return True if low >= -PERPLEXITY_BOUND and high <= PERPLEXITY_BOUND else None


def compare(row: Row, found: Mapping[int, float]) -> Position:
    """One position: the reference's row, and the log-probabilities of the engine's likeliest tokens by id."""
    best = max(found.values())
    likeliest = [token for token, value in found.items() if value == best]
    there = {token: math.exp(value) for token, value in zip(row.ids, row.logprobs, strict=True)}
    both = [token for token in there if token in found]
    old, new = [there[token] for token in both], [math.exp(found[token]) for token in both]
    outside = row.tail + sum(value for token, value in there.items() if token not in found)
    old, new = _whole([*old, outside]), _whole([*new, 1 - sum(new)])
    cell = both.index(row.target) if row.target in both else len(both)
    return Position(
        chunk=row.chunk,
        kl=sum(p * math.log(p / q) for p, q in zip(old, new, strict=True)),
        top1=1 / len(likeliest) if row.ids[0] in likeliest else 0.0,
        log_ratio=row.target_logprob - found[row.target] if row.target in found else math.log(old[cell] / new[cell]),
    )


def by_score(row: Row, logprob: float) -> Position:
    """One position of which only the log-probability of the token that follows is known."""
    return Position(row.chunk, None, None, row.target_logprob - logprob)


def _whole(cells: list[float]) -> list[float]:
    """Cells that sum up to 1; the last one holds what no other does."""
    cells[-1] = max(cells[-1], _LEAST)
    total = sum(cells)
    return [cell / total for cell in cells]


def agreeing(wanted: Sequence[str], answer: str) -> int:
    """How many tokens of an answer are those of the reference; `wanted`: its text up to and with each token."""
    return next((n for n, text in enumerate(wanted) if not answer.startswith(text)), len(wanted))


def summary(positions: Sequence[Position], greedy: Sequence[float], unavailable: str | None = None) -> Fidelity:
    """What positions and answers come to. `greedy`: of each answer the share that agrees."""
    chunks: dict[int, list[Position]] = {}
    for position in positions:
        chunks.setdefault(position.chunk, []).append(position)
    groups = list(chunks.values())
    ratio = _estimate([[p.log_ratio for p in group] for group in groups])
    return Fidelity(
        positions=len(positions),
        kl=_estimate([[p.kl for p in group if p.kl is not None] for group in groups]),
        top1=_estimate([[p.top1 for p in group if p.top1 is not None] for group in groups]),
        perplexity=ratio and Estimate(math.exp(ratio.value), math.exp(ratio.low), math.exp(ratio.high)),
        greedy=_estimate([[share] for share in greedy]),
        identical_answers=sum(share == 1.0 for share in greedy),
        answers=len(greedy),
        unavailable=unavailable,
    )


def _estimate(groups: Sequence[Sequence[float]]) -> Estimate | None:
    """The mean of all values, and the middle 95 % of that mean when the groups are drawn again; None without any.

    Of one group alone its values are drawn, which is less sure than it says: they hang together.
    """
    if len(groups) == 1:
        groups = [[value] for value in groups[0]]
    parts = [(sum(group), len(group)) for group in groups if group]
    if not parts:
        return None
    draw = random.Random(0)
    means = sorted(_mean(draw.choices(parts, k=len(parts))) for _ in range(_DRAWS))
    return Estimate(_mean(parts), means[_DRAWS // 40], means[-1 - _DRAWS // 40])


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    return sum(total for total, _ in parts) / sum(count for _, count in parts)

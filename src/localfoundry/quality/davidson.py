"""Bradley and Terry's model with Davidson's ties, fitted to weighted counts. Pure: counts in, numbers out.

    P(a beats b) = e^a / (e^a + e^b + v e^((a+b)/2)),   P(tie) = v e^((a+b)/2) / (the same)       Davidson (1970)

Its likelihood is concave, so Newton's method finds the one maximum. Every model also meets an imagined one of strength
0 in half a win and half a loss, which keeps the strength of a model that won everything finite and joins models that
never met. Trade-off: plain Python, since there are ten models and not ten thousand, and numpy would cost more time to
import than all of this takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from localfoundry.quality.solve import solve

Pair = tuple[int, int]
Tally = Mapping[Pair, tuple[float, float, float]]
"""Weighted wins of the first, wins of the second, and ties, by the places of two models."""

_PRIOR = 0.5  # of a win and of a loss against an imagined model of strength 0
_PRIOR_TIES = 0.5  # of a tie, and twice of a vote that is none, between equals
_LONGEST_STEP = 2.0
_ROUNDS = 100
_CLOSE = 1e-9
_WIDEST = 60.0  # of a strength; e^60 is as good as never


class Fit:
    """The penalised maximum, and profiles through it. Parameters: the strengths, then log v."""

    def __init__(self, models: int, tally: Tally) -> None:
        self._models = models
        self._tally = tally
        self.best, _ = self._maximize([0.0] * (models + 1), None)
        self._height = self._look(self.best)[0]

    def interval(self, contrast: Sequence[float], reach: float) -> tuple[float, float]:
        """Of `contrast` times the strengths: all values whose profile lies at most reach²/2 below the maximum."""
        middle = sum(c * value for c, value in zip(contrast, self.best[:-1], strict=True))
        spread = self.spread(contrast)
        return self._end(contrast, middle, -spread, reach), self._end(contrast, middle, spread, reach)

    def spread(self, contrast: Sequence[float]) -> float:
        """Standard error of `contrast` times the strengths, from the curvature at the maximum."""
        full = [*contrast, 0.0]
        _, _, curvature = self._look(self.best)
        step = solve([[-value for value in row] for row in curvature], full)
        return math.sqrt(max(sum(c * s for c, s in zip(full, step, strict=True)), 0.0))

    def _end(self, contrast: Sequence[float], middle: float, spread: float, reach: float) -> float:
        """Newton on the root of the deviance, which is nearly a straight line; the multiplier is its derivative."""
        at, start = middle + reach * spread, self.best
        for _ in range(_ROUNDS):
            start, slope = self._maximize(start, ([*contrast, 0.0], at))
            root = math.sqrt(max(2 * (self._height - self._look(start)[0]), 1e-12))
            if abs(root - reach) < 1e-6 or slope == 0:
                break
            step = (reach - root) * root / -slope
            at += max(-_LONGEST_STEP, min(_LONGEST_STEP, step))
            if abs(at) > _WIDEST:
                return math.copysign(_WIDEST, at)
        return at

    def _maximize(
        self, start: Sequence[float], held: tuple[Sequence[float], float] | None
    ) -> tuple[list[float], float]:
        """Newton's method, with a linear condition held by a multiplier; that multiplier is returned beside."""
        at, multiplier = list(start), 0.0
        size = len(at)
        for _ in range(_ROUNDS):
            height, slope, curvature = self._look(at)
            rows, wanted = [list(row) for row in curvature], [-value for value in slope]
            if held is not None:
                direction, target = held
                for row, weight in zip(rows, direction, strict=True):
                    row.append(weight)
                rows.append([*direction, 0.0])
                wanted.append(target - sum(c * value for c, value in zip(direction, at, strict=True)))
            found = solve(rows, wanted)
            step, multiplier = found[:size], -found[size] if held is not None else 0.0
            longest = max(map(abs, step))
            if held is None:
                at = self._climb(at, step, height)
            else:
                at = [value + change for value, change in zip(at, step, strict=True)]
            if longest < _CLOSE:
                break
        return at, multiplier

    def _climb(self, at: Sequence[float], step: Sequence[float], height: float) -> list[float]:
        """A step that does not lead down, halved until it is one: far from the maximum Newton's is too long."""
        share = min(1.0, _LONGEST_STEP / max(*map(abs, step), _CLOSE))
        while True:
            there = [value + share * change for value, change in zip(at, step, strict=True)]
            if share < 1e-6 or self._look(there)[0] >= height - 1e-12:
                return there
            share /= 2

    def _look(self, at: Sequence[float]) -> tuple[float, list[float], list[list[float]]]:
        """Penalised log likelihood, its gradient and its Hessian."""
        look = _Look(len(at))
        for (a, b), counts in self._tally.items():
            look.add({a: 1.0, b: -1.0}, at, counts)
        for model in range(self._models):
            look.add({model: 1.0}, at, (_PRIOR, _PRIOR, 0.0))
        look.add({}, at, (_PRIOR_TIES, _PRIOR_TIES, _PRIOR_TIES))
        return look.height, look.slope, look.curvature


class _Look:
    """Sums over pairs. Each is a choice of three with utilities d/2, -d/2 and log v, d the difference of strengths."""

    def __init__(self, size: int) -> None:
        self.height = 0.0
        self.slope = [0.0] * size
        self.curvature = [[0.0] * size for _ in range(size)]

    def add(self, weights: Mapping[int, float], at: Sequence[float], counts: tuple[float, float, float]) -> None:
        last = len(self.slope) - 1
        d = sum(weight * at[place] for place, weight in weights.items())
        utilities = (d / 2, -d / 2, at[last])
        top = max(utilities)
        powers = [math.exp(u - top) for u in utilities]
        whole = sum(powers)
        n = sum(counts)
        chances = [power / whole for power in powers]
        self.height += sum(c * u for c, u in zip(counts, utilities, strict=True)) - n * (top + math.log(whole))
        # Each outcome's utility depends on d by (1/2, -1/2, 0) and on log v by (0, 0, 1).
        mean = (chances[0] - chances[1]) / 2
        by_d = (counts[0] - counts[1]) / 2 - n * mean
        by_v = counts[2] - n * chances[2]
        d_d = -n * ((chances[0] + chances[1]) / 4 - mean * mean)
        d_v = n * mean * chances[2]
        v_v = -n * chances[2] * (1 - chances[2])
        self.slope[last] += by_v
        self.curvature[last][last] += v_v
        for place, weight in weights.items():
            self.slope[place] += weight * by_d
            self.curvature[place][last] += weight * d_v
            self.curvature[last][place] += weight * d_v
            for other, other_weight in weights.items():
                self.curvature[place][other] += weight * other_weight * d_d

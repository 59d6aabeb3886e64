"""Who is shown to be no better than another in anything: dominance between points that are known as intervals.

A dominates B where in every dimension the worst that A may be is no worse than the best that B may be, and in one it
is better. Intervals that overlap show nothing, and neither does a figure that is not known. That order is transitive,
so nobody has to be compared with one who is dominated, and the first dominator in a sorted list is not dominated.

For each dimension the candidates that are at least as good as a value are the first ones in sorted order. These sets
are integers used as sets of bits, kept for some hundred values of each dimension; their intersection leaves few
candidates to be looked at one by one. 100,000 points take about two seconds, whatever their shape.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Range = tuple[float, float]  # low and high end; more is better
_STEPS = 256  # sets kept for each dimension


def beats(a: Sequence[Range | None], b: Sequence[Range | None]) -> bool:
    """Whether `a` dominates `b`, as defined above."""
    better = False
    for one, other in zip(a, b, strict=True):
        if one is None or other is None or one[0] < other[1]:
            return False
        better = better or one[0] > other[1]
    return better


def dominators(points: Sequence[tuple[Range | None, ...]]) -> list[int | None]:
    """For each point the index of one that dominates it and is not dominated itself; None where there is none."""
    found: list[int | None] = [None] * len(points)
    known = [i for i, point in enumerate(points) if None not in point]
    if not known:
        return found
    low = {i: tuple(r[0] for r in points[i] if r is not None) for i in known}
    high = {i: tuple(r[1] for r in points[i] if r is not None) for i in known}
    order = sorted(known, key=lambda i: (low[i], -i), reverse=True)  # of equal ones the first
    worst = [low[i] for i in order]
    dimensions = [_Dimension([corner[d] for corner in worst]) for d in range(len(points[known[0]]))]
    for i in known:
        at = _first(worst, dimensions, high[i])
        found[i] = None if at is None else order[at]
    return found


class _Dimension:
    """Positions in the common order, by how good they are in one dimension at least."""

    def __init__(self, values: list[float]) -> None:
        ranked = sorted(range(len(values)), key=values.__getitem__, reverse=True)
        step = max(1, -(-len(ranked) // _STEPS))
        bits, self._sets = bytearray((len(ranked) + 7) // 8), []
        for start in range(0, len(ranked), step):
            for position in ranked[start : start + step]:
                bits[position >> 3] |= 1 << (position & 7)
            self._sets.append(int.from_bytes(bits, "little"))
        self._ends = [-values[ranked[min(start + step, len(ranked)) - 1]] for start in range(0, len(ranked), step)]
        self._best = -values[ranked[0]]

    def at_least(self, value: float) -> int:
        """Positions of all whose value is at least this, and of a few others."""
        if self._best > -value:
            return 0
        # The last end of a step that is as good as the value, and one step more, where those who are may go on.
        return self._sets[min(bisect_right(self._ends, -value), len(self._sets) - 1)]


def _first(worst: Sequence[tuple[float, ...]], dimensions: Sequence[_Dimension], best: tuple[float, ...]) -> int | None:
    """The first position whose worst corner is at least `best` everywhere and better somewhere."""
    left = -1
    for dimension, value in zip(dimensions, best, strict=True):
        left &= dimension.at_least(value)
        if not left:
            return None
    while left:
        bit = left & -left
        position = bit.bit_length() - 1
        corner = worst[position]
        if corner != best and all(a >= b for a, b in zip(corner, best, strict=True)):
            return position
        if corner < best:  # sorted from the greatest: nobody further on is at least as good everywhere
            return None
        left ^= bit
    return None

"""Linear equations of a dozen unknowns: Gauss with partial pivoting. Pure.

Our own, for the reason that `ranking` gives: importing a numerical package takes longer than all that is solved here.
"""

from __future__ import annotations

from collections.abc import Sequence


def solve(matrix: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """x with `matrix` x = `wanted`. Raises ValueError for a matrix that is singular."""
    size = len(wanted)
    rows = [[*row, value] for row, value in zip(matrix, wanted, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        if abs(rows[pivot][column]) < 1e-300:
            raise ValueError("the equations have no single solution")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column]
        for row in rows[column + 1 :]:
            factor = row[column] / lead[column]
            if factor:
                for place in range(column, size + 1):
                    row[place] -= factor * lead[place]
    found = [0.0] * size
    for place in reversed(range(size)):
        known = sum(rows[place][other] * found[other] for other in range(place + 1, size))
        found[place] = (rows[place][size] - known) / rows[place][place]
    return found

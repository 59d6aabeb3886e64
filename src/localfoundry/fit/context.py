"""How far the context can go: the largest that fits, and a table of contexts with what each takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from localfoundry.fit.memory import Load, Memory, memory
from localfoundry.formats.shape import ModelShape

DEFAULT_CONTEXT = 8192  # tokens that a load gets unless it is told otherwise, where model and memory allow it
SMALLEST_CONTEXT = 512  # that is chosen for a person; less is refused with the figures

SMALLEST = 512  # tokens: the table's first row, and less than that is no conversation
_STEP = 256  # tokens that an engine rounds a context up to


@dataclass(frozen=True, slots=True)
class ContextRow:
    """A context, what a load with it takes, and whether that fits into what was asked about; None: not asked."""

    context: int
    memory: Memory
    fits: bool | None = None


def largest_context(shape: ModelShape, load: Load, room_bytes: int, most: int) -> int | None:
    """The largest context, a multiple of 256 and at most `most`, whose memory fits; None where not even 256 does.

    `load` says everything else. More context never takes less, so that halving finds it.
    """
    return largest_that(lambda context: memory(shape, replace(load, context=context)).total <= room_bytes, most)


def largest_that(fits: Callable[[int], bool], most: int) -> int | None:
    """`most`, or the largest multiple of 256 below it that fits, where what fits has no gaps; None: not even 256."""
    if fits(most):
        return most
    low, high = 0, (most - 1) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * _STEP):
            low = middle
        else:
            high = middle - 1
    return low * _STEP or None


def table(shape: ModelShape, load: Load, most: int, room_bytes: int | None = None) -> list[ContextRow]:
    """Contexts from 512 to `most`, each twice the one before, and `most` itself."""
    contexts = []
    context = SMALLEST
    while context < most:
        contexts.append(context)
        context *= 2
    rows = [ContextRow(tokens, memory(shape, replace(load, context=tokens))) for tokens in [*contexts, most]]
    if room_bytes is None:
        return rows
    return [replace(row, fits=row.memory.total <= room_bytes) for row in rows]

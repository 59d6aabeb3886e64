"""Why one of the set is worth taking: where it is first, and what it takes; numbers with interval and source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from localfoundry.advice.figures import READING, rate, speed, told, told_bytes, told_rate
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.quality import Evidence
from localfoundry.advice.wishes import Wishes
from localfoundry.fit.interval import Interval
from localfoundry.units import format_bytes, format_duration


def reasons(wishes: Wishes, own: Prospect, quality: Evidence | None, ends: Ends) -> tuple[str, ...]:
    """Sentences without a full stop: what it is first in among the set, speed, size, quality, and what is in doubt."""
    place = ends.place(own)
    said = [place] if place else []
    said += [_pace(wishes.task, own), _room(own)]
    said.append(f"quality: {quality.words}" if quality else "quality: no evidence")
    return (*said, *_doubts(wishes, own))


class Ends:
    """The least and the most of each figure in the set, found once for all who are chosen from it."""

    def __init__(self, task: str, best: Sequence[Prospect]) -> None:
        self.count = len(best)
        self._figures: tuple[Callable[[Prospect], float | None], ...] = (
            lambda p: _value(speed(task, p)), lambda p: _value(p.first_token_s), lambda p: _value(p.memory),
            lambda p: p.disk_bytes,
        )  # fmt: skip
        self._ends = [_span(map(figure, best)) for figure in self._figures]

    def place(self, own: Prospect) -> str:
        """Where it is at an end of the set, by the middle of each figure; a tie has two."""
        if self.count < 2:
            return "the only one of the set"
        found = [name for name, number, end in _PLACES
                 if (span := self._ends[number]) is not None and self._figures[number](own) == span[end]]  # fmt: skip
        return f"of the {self.count} in the set {', '.join(found)}" if found else ""


# What is said of whom, by the number of the figure in `Ends`, and its end: 0 is the least, 1 the most.
_PLACES = (
    ("the fastest", 0, 1), ("the slowest, with the most to compute", 0, 0), ("the soonest first token", 1, 0),
    ("the least memory", 2, 0), ("the most memory", 2, 1), ("the smallest file", 3, 0),
)  # fmt: skip


def _span(figures: Iterable[float | None]) -> tuple[float, float] | None:
    """Least and most; None where fewer than two are known."""
    known = [value for value in figures if value is not None]
    return (min(known), max(known)) if len(known) > 1 else None


def _value(interval: Interval | None) -> float | None:
    return interval.value if interval else None


def _pace(task: str, own: Prospect) -> str:
    found = speed(task, own)
    verb = "reads" if task in READING else "writes"
    pace = f"{verb} {told_rate(found)}" if found else f"speed not known ({own.why_unknown or 'missing facts'})"
    if own.first_token_s is not None:
        pace += f", first token after {told(own.first_token_s, format_duration)}"
    return pace


def _room(own: Prospect) -> str:
    memory = told_bytes(own.memory) if own.memory else "unknown"
    disk = f"{format_bytes(own.disk_bytes)} on the disk" if own.disk_bytes else "file size unknown"
    return f"takes {memory} of memory with {own.context} tokens, {disk}"


def _doubts(wishes: Wishes, own: Prospect) -> list[str]:
    """A wish that the middle of an interval fulfils, and one end of it does not; and memory that others hold now."""
    found, first = speed(wishes.task, own), own.first_token_s
    said = []
    if wishes.min_speed is not None and found is not None and found.low < wishes.min_speed:
        said.append(f"may be slower than {rate(wishes.min_speed)}")
    if wishes.max_ttft_s is not None and first is not None and first.high > wishes.max_ttft_s:
        said.append(f"may take longer than {format_duration(wishes.max_ttft_s)} to the first token")
    if own.fit == "not now":
        said.append("other programs have to give memory back first")
    return said

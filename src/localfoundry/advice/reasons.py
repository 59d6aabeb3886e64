"""Why one of the set is worth taking: where it is first, and what it takes; numbers with interval and source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localfoundry.advice.figures import READING, rate, speed, told, told_bytes, told_rate
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.quality import Evidence
from localfoundry.advice.wishes import Wishes
from localfoundry.fit.interval import Interval
from localfoundry.units import format_bytes, format_duration


def reasons(wishes: Wishes, own: Prospect, quality: Evidence | None, best: Sequence[Prospect]) -> tuple[str, ...]:
    """Sentences without a full stop: what it is first in among `best`, speed, size, quality, and what is in doubt."""
    place = _place(wishes.task, own, best)
    said = [place] if place else []
    said += [_pace(wishes.task, own), _room(own)]
    said.append(f"quality: {quality.words}" if quality else "quality: no evidence")
    return (*said, *_doubts(wishes, own))


def _place(task: str, own: Prospect, best: Sequence[Prospect]) -> str:
    """Where it is at an end of the set, by the middle of each figure; a tie has two."""
    if len(best) < 2:
        return "the only one of the set"
    ends = [
        ("the fastest", _end(own, best, lambda p: _value(speed(task, p)), max)),
        ("the slowest, with the most to compute", _end(own, best, lambda p: _value(speed(task, p)), min)),
        ("the soonest first token", _end(own, best, lambda p: _value(p.first_token_s), min)),
        ("the least memory", _end(own, best, lambda p: _value(p.memory), min)),
        ("the most memory", _end(own, best, lambda p: _value(p.memory), max)),
        ("the smallest file", _end(own, best, lambda p: p.disk_bytes, min)),
    ]
    found = [name for name, there in ends if there]
    return f"of the {len(best)} in the set {', '.join(found)}" if found else ""


def _end(
    own: Prospect, best: Sequence[Prospect], figure: Callable[[Prospect], float | None],
    end: Callable[[Sequence[float]], float],
) -> bool:  # fmt: skip
    known = [value for p in best if (value := figure(p)) is not None]
    return len(known) > 1 and figure(own) == end(known)


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

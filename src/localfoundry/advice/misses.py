"""Which wishes a prospect does not fulfil, and how that is said.

A fact that is not known fulfils nothing: nobody is recommended on a guess. A predicted figure counts with the middle of
its interval, and the interval is told. Holding 100,000 prospects against the wishes is cheap; words are made for those
that somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localfoundry.advice import licenses
from localfoundry.advice.figures import rate, speed, told, told_bytes, told_rate
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.wishes import Key, Wishes
from localfoundry.units import format_bytes, format_duration


@dataclass(frozen=True, slots=True)
class Miss:
    """A wish that a prospect does not fulfil."""

    key: Key
    wishes: Wishes
    prospect: Prospect

    @property
    def has(self) -> str | None:
        """What the prospect has of it, in words; None: that is not known."""
        return _HAS[self.key](self.wishes, self.prospect)

    @property
    def asked(self) -> str:
        """What was asked, in words; and where nothing is known of the prospect, which fact is missing."""
        if self.key == "memory" and self.has is None:
            return f"missing: {self.prospect.why_unknown or 'how much memory the machine has'}"
        asked = _ASKED[self.key](self.wishes)
        unknown = self.key in ("speed", "first token") and self.has is None and self.prospect.why_unknown
        return f"{asked}; missing: {self.prospect.why_unknown}" if unknown else asked

    @property
    def needs(self) -> float | None:
        """The value of the wish with which the prospect would pass; None where no value would do, or none is known.

        Of memory it is what is enough for the whole interval, since a person might buy it.
        """
        p = self.prospect
        match self.key:
            case "context":
                return p.trained_context
            case "memory":
                return p.memory.high if p.memory else None
            case "disk":
                return p.disk_bytes
            case "speed":
                found = speed(self.wishes.task, p)
                return found.value if found else None
            case "first token":
                return p.first_token_s.value if p.first_token_s else None
            case _:
                return None

    @property
    def words(self) -> str:
        return f"{self.has or 'not known'} ({self.asked})"


def misses(wishes: Wishes, prospect: Prospect) -> tuple[Miss, ...]:
    """Every wish that the prospect does not fulfil, in the order of `Wishes.keys`."""
    return checker(wishes)(prospect)


def checker(wishes: Wishes) -> Callable[[Prospect], tuple[Miss, ...]]:
    """`misses` of these wishes, for many prospects."""
    checks = [(key, _PASSES[key]) for key in wishes.keys]
    return lambda p: tuple(Miss(key, wishes, p) for key, passes in checks if not passes(wishes, p))


def _passes_license(wishes: Wishes, prospect: Prospect) -> bool:
    return wishes.license is None or licenses.allows(wishes.license, prospect.license)


def _passes_context(wishes: Wishes, prospect: Prospect) -> bool:
    trained = prospect.trained_context
    return trained is not None and trained >= (wishes.context or 0)


def _passes_memory(wishes: Wishes, prospect: Prospect) -> bool:
    """As the prospect says; or by its figures, where another context or another memory is tried."""
    if prospect.fit in ("fits", "not now"):
        return True
    if prospect.memory is None or wishes.room_bytes is None:
        return False
    if wishes.context and wishes.context < prospect.context:
        largest = prospect.largest_context
        if largest and wishes.context <= largest < prospect.context:
            return True
    return prospect.memory.high <= wishes.room_bytes


def _passes_disk(wishes: Wishes, prospect: Prospect) -> bool:
    """A size that is not known is checked before its download."""
    size, room = prospect.disk_bytes, wishes.disk_bytes
    return size is None or room is None or size <= room or prospect.variant in wishes.here


def _passes_speed(wishes: Wishes, prospect: Prospect) -> bool:
    found = speed(wishes.task, prospect)
    return found is not None and found.value >= (wishes.min_speed or 0)


def _passes_first_token(wishes: Wishes, prospect: Prospect) -> bool:
    found = prospect.first_token_s
    return found is not None and wishes.max_ttft_s is not None and found.value <= wishes.max_ttft_s


_PASSES: dict[Key, Callable[[Wishes, Prospect], bool]] = {
    "task": lambda wishes, prospect: wishes.task in prospect.tasks,
    "engine": lambda wishes, prospect: prospect.format in wishes.formats,
    "license": _passes_license,
    "context": _passes_context,
    "memory": _passes_memory,
    "disk": _passes_disk,
    "speed": _passes_speed,
    "first token": _passes_first_token,
}


def _has_license(wishes: Wishes, prospect: Prospect) -> str:
    if prospect.license is None:
        return "its licence is not known, which counts as none"
    return f"its licence is {prospect.license}"


def _has_context(wishes: Wishes, prospect: Prospect) -> str | None:
    trained = prospect.trained_context
    return None if trained is None else f"it was trained for {trained} tokens"


def _has_memory(wishes: Wishes, prospect: Prospect) -> str | None:
    if prospect.memory is None and prospect.fit == "never":
        return f"its file alone has {format_bytes(prospect.disk_bytes)}"
    if prospect.memory is None or wishes.room_bytes is None:
        return None
    sure = "" if prospect.fit == "never" else ", which may fit or not"
    return f"it needs {told_bytes(prospect.memory)} with {prospect.context} tokens{sure}"


def _has_speed(wishes: Wishes, prospect: Prospect) -> str | None:
    found = speed(wishes.task, prospect)
    return told_rate(found) if found else None


def _has_first_token(wishes: Wishes, prospect: Prospect) -> str | None:
    found = prospect.first_token_s
    return f"first token after {told(found, format_duration)}" if found else None


_HAS: dict[Key, Callable[[Wishes, Prospect], str | None]] = {
    "task": lambda wishes, prospect: f"it is for {', '.join(prospect.tasks) or 'nothing that is known'}",
    "engine": lambda wishes, prospect: f"no engine here runs {prospect.format} files",
    "license": _has_license,
    "context": _has_context,
    "memory": _has_memory,
    "disk": lambda wishes, prospect: f"its file has {format_bytes(prospect.disk_bytes)}",
    "speed": _has_speed,
    "first token": _has_first_token,
}
_ASKED: dict[Key, Callable[[Wishes], str]] = {
    "task": lambda wishes: f"asked: {wishes.task}",
    "engine": lambda wishes: "asked: a model that runs",
    "license": lambda wishes: f"asked: {wishes.license}",
    "context": lambda wishes: f"asked: {wishes.context} tokens",
    "memory": lambda wishes: f"{format_bytes(wishes.room_bytes)} can be had",
    "disk": lambda wishes: f"{format_bytes(wishes.disk_bytes)} are free",
    "speed": lambda wishes: f"asked: at least {rate(wishes.min_speed or 0)}",
    "first token": lambda wishes: f"asked: at most {format_duration(wishes.max_ttft_s or 0)}",
}

"""A recommendation for reading, and as a document (docs/recommend.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localfoundry.advice.figures import number, speed
from localfoundry.advice.machine import Means
from localfoundry.advice.recommend import Candidate, Change, LeftOut, Recommendation
from localfoundry.advice.wishes import Wishes
from localfoundry.cli import output
from localfoundry.errors import NothingPasses
from localfoundry.fit.interval import Interval
from localfoundry.units import format_bytes, format_duration

SCHEMA = 1
_COLUMNS = ("Model ID", "Quality", "Tokens/s", "First token", "Memory", "File", "Context", "License")
_GROUPS = 4  # kinds of reasons against candidates that are shown
_CHANGES = 3
_MOST_SHOWN = 100  # that `--top` takes


@dataclass(frozen=True, slots=True)
class Setting:
    """What the recommendation is for: what the machine could give beside the reserve, and what was typed."""

    means: Means
    reserve_bytes: int
    described: Path | None
    ram: str | None
    ram_bytes: int | None
    top: int
    suite: str | None = None

    def command(self, wishes: Wishes, asked: Wishes) -> str:
        """What to type for other wishes than were asked for."""
        typed = ["foundry recommend", wishes.options(), *self.memory(wishes, asked)]
        typed += [f"--suite {self.suite}"] if self.suite else []
        typed += [f"--for-machine {self.described}"] if self.described else []
        typed += [f"--top {self.top}"] if self.top != 3 else []
        return " ".join(typed)

    def memory(self, wishes: Wishes, asked: Wishes) -> list[str]:
        """`--ram` where it was typed, or with as much more as the wishes take more."""
        more = (wishes.room_bytes or 0) - (asked.room_bytes or 0)
        if more > 0:
            return [f"--ram {-(-((wishes.room_bytes or 0) + self.reserve_bytes) // 10**8) / 10:g}GB"]
        return [f"--ram {self.ram.replace(' ', '')}"] if self.ram else []


def check(found: Recommendation, setting: Setting) -> None:
    """Raises NothingPasses where nothing does; the hint is the wishes, loosened least, that someone passes."""
    if found.passing:
        return
    together = found.conflict.together if found.conflict else ()
    why = " and ".join(found.wishes.words(key) for key in together)
    no = "there are no models to choose from" if not found.candidates else f"no model passes: {why}"
    raise NothingPasses(no, hint=_hint(found, setting))


def _hint(found: Recommendation, setting: Setting) -> str:
    if found.nearest is not None:
        return setting.command(found.nearest, found.wishes)
    if setting.means.memory_bytes is None:
        return f"{setting.command(found.wishes, found.wishes)} --ram 16GB"
    if setting.means.processor is None:
        there = " > machine.json, on that machine" if setting.described else ""
        return f"foundry hardware --probe --json{there}"
    return "foundry model list"


def show(found: Recommendation, setting: Setting) -> None:
    """The table, a sentence for each that is chosen, why not the others, and what would change it."""
    output.data(_head(found, setting))
    if found.chosen:
        output.table(_COLUMNS, [_cells(found.wishes, choice.candidate) for choice in found.chosen])
        output.data()
        for choice in found.chosen:
            output.data(f"{choice.candidate.id}: {'; '.join(choice.reasons)}.")
        output.data(_verdict(found, setting))
        if found.others:
            output.data(_others(found))
        output.data(f"Try one: foundry model run {found.chosen[0].candidate.id}")
    _show_conflict(found)
    _show_left_out(found)
    if found.changes:
        output.data("What would change it:")
        for change in found.changes[:_CHANGES]:
            output.data(f"  {_change(found.wishes, change, setting)}")


def _head(found: Recommendation, setting: Setting) -> str:
    means = setting.means
    room = format_bytes(means.memory_bytes)
    disk = f", {format_bytes(means.disk_free_bytes)} free on the disk" if means.disk_free_bytes is not None else ""
    in_set = len(found.chosen) + len(found.others)
    pass_ = f"{found.passing} of {found.candidates} candidates pass {found.wishes.options()}"
    shown = f", and {in_set} of these are not shown to be worse than another" if in_set else ""
    return f"On {means.name} ({room} of memory for a load{disk}): {pass_}{shown}."


def _cells(wishes: Wishes, candidate: Candidate) -> list[str]:
    p = candidate.prospect
    return [
        candidate.id,
        candidate.quality.short if candidate.quality else "no evidence",
        _figure(speed(wishes.task, p), number),
        _figure(p.first_token_s, format_duration),
        _figure(p.memory, lambda size: format_bytes(int(size))),
        format_bytes(p.disk_bytes),
        str(p.context),
        p.license or "unknown",
    ]


def _figure(interval: Interval | None, form: Callable[[float], str]) -> str:
    return "unknown" if interval is None else f"{form(interval.value)} {interval.source}"


def _verdict(found: Recommendation, setting: Setting) -> str:
    if found.winner:
        return f"Best quality of those that were measured, and shown: {found.winner}."
    suite = f" with the suite {setting.suite}" if setting.suite else ""
    language = f" in the language {found.wishes.language}" if found.wishes.language else ""
    why = f"quality{suite}{language} was not measured"
    if found.measured > 1:
        why = "no difference in quality is shown"
    elif found.measured:
        why = f"the quality of one model only was measured{suite}{language}"
    elif any(c.candidate.quality for c in found.chosen):
        why += "; what is declared proves nothing"
    run = f" To find out: {found.find_out}" if found.find_out else ""
    return f"No winner: {why}.{run}"


def _others(found: Recommendation) -> str:
    """How many more there are, with the fastest and the slowest of them."""
    task = found.wishes.task
    paces = [(pace.value, c.id, pace.source) for c in found.others if (pace := speed(task, c.prospect)) is not None]
    ends = (max(paces), min(paces)) if paces else ()
    said = [f"{name} ({number(value)} tokens/s {source})" for value, name, source in ends]
    span = f", from {' to '.join(dict.fromkeys(said))}" if said else ""
    count = len(found.others)
    how = f"--top {count + len(found.chosen)} shows" if count + len(found.chosen) <= _MOST_SHOWN else "--json has"
    return f"Also in the set: {count} more{span}; {how} them"


def _show_conflict(found: Recommendation) -> None:
    if found.conflict is None or not found.candidates:
        return
    output.data(f"Of {found.candidates} candidates pass, each wish alone:")
    for key, count in found.conflict.alone:
        mark = "  <- nobody passes these together" if key in found.conflict.together else ""
        output.data(f"  {count:5}  {found.wishes.words(key)}{mark}")


def _show_left_out(found: Recommendation) -> None:
    """By the first wish that was missed, with one that came near; all of them are in the document."""
    groups: dict[str, list[LeftOut]] = {}
    for left in found.left_out:
        if not (left.misses and left.misses[0].key == "task"):
            groups.setdefault(_group(left), []).append(left)
    if not groups:
        return
    output.data("Left out of those for the task:")
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    for name, members in ordered[:_GROUPS]:
        nearest = min(members, key=lambda left: (len(left.misses), left.candidate.id))
        output.data(f"  {len(members)} {name}, such as {nearest.candidate.id}{_nearest_why(nearest)}")
    rest = sum(len(members) for _, members in ordered[_GROUPS:])
    output.data(f"  {rest} more for other reasons; --json has all" if rest else "  --json has each one and why")


def _group(left: LeftOut) -> str:
    """What is common to many: the wish, or the fact that is missing."""
    if not left.misses:
        return "beaten"
    first = left.misses[0]
    return f"for their {first.key}" if first.has else f"not known ({first.asked})"


def _nearest_why(left: LeftOut) -> str:
    return "" if left.misses and left.misses[0].has is None else f": {left.why}"


def _change(asked: Wishes, change: Change, setting: Setting) -> str:
    pace = speed(asked.task, change.comes_in.prospect)
    figure = f", {number(pace.value)} tokens/s {pace.source}" if pace else ""
    out = f", and {', '.join(change.goes_out)} would go" if change.goes_out else ""
    more = (change.wishes.room_bytes or 0) > (asked.room_bytes or 0)
    typed = f" ({setting.memory(change.wishes, asked)[0]})" if more else ""
    return f"{change.words}{typed}: {change.comes_in.id}{figure}{out}"


def document(found: Recommendation, setting: Setting) -> dict[str, Any]:
    """Everything, of schema 1; sizes in bytes, times in seconds, rates in tokens per second."""
    asked, conflict = found.wishes, found.conflict
    return {
        "schema": SCHEMA,
        "machine": {
            "name": setting.means.name,
            "described": setting.described is not None,
            "memoryBytes": setting.means.memory_bytes,
            "freeBytes": setting.means.free_bytes,
            "diskFreeBytes": setting.means.disk_free_bytes,
        },
        "wishes": {
            "task": asked.task,
            "minSpeed": asked.min_speed,
            "maxTtftSeconds": asked.max_ttft_s,
            "license": asked.license,
            "context": asked.context,
            "language": asked.language,
            "ramBytes": setting.ram_bytes,
        },
        "candidates": found.candidates,
        "passing": found.passing,
        "winner": found.winner,
        "findOut": found.find_out,
        "chosen": [_told(asked, c.candidate) | {"reasons": list(c.reasons)} for c in found.chosen],
        "others": [_told(asked, candidate) for candidate in found.others],
        "leftOut": [_left(left) for left in found.left_out],
        "leftOutByWish": Counter(left.misses[0].key if left.misses else "beaten" for left in found.left_out),
        "changes": [_changed(change, setting, asked) for change in found.changes],
        "conflict": None if conflict is None else {
            "alone": [{"wish": asked.words(key), "pass": count} for key, count in conflict.alone],
            "together": [asked.words(key) for key in conflict.together],
            "try": setting.command(found.nearest, asked) if found.nearest else None,
        },
    }  # fmt: skip


def _told(wishes: Wishes, candidate: Candidate) -> dict[str, Any]:
    p, quality = candidate.prospect, candidate.quality
    return {
        "id": candidate.id,
        "alias": p.alias,
        "quality": None if quality is None else {
            "source": quality.source, "score": quality.score, "low": quality.low, "high": quality.high,
            "items": quality.n or None, "suite": quality.suite or None, "language": quality.language,
            "role": quality.role, "by": quality.by or None,
        },
        "decode": _interval(p.decode),
        "prefill": _interval(p.prefill),
        "firstTokenSeconds": _interval(p.first_token_s),
        "loadSeconds": _interval(p.load_s),
        "memoryBytes": _whole(p.memory),
        "diskBytes": p.disk_bytes,
        "context": p.context,
        "trainedContext": p.trained_context,
        "largestContext": p.largest_context,
        "fit": p.fit,
        "license": p.license,
        "cached": p.variant in wishes.here,
    }  # fmt: skip


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high, "source": interval.source}


def _whole(interval: Interval | None) -> dict[str, Any] | None:
    found = _interval(interval)
    return found and found | {end: int(found[end]) for end in ("value", "low", "high")}


def _left(left: LeftOut) -> dict[str, Any]:
    missed: Sequence[dict[str, Any]] = [
        {"wish": m.key, "has": m.has, "asked": m.asked, "needs": m.needs} for m in left.misses
    ]
    return {
        "id": left.candidate.id,
        "alias": left.candidate.prospect.alias,
        "why": left.why,
        "misses": missed,
        "dominatedBy": left.dominated_by,
        "betterIn": list(left.better_in),
    }


def _changed(change: Change, setting: Setting, asked: Wishes) -> dict[str, Any]:
    return {
        "change": change.words,
        "command": setting.command(change.wishes, asked),
        "comesIn": change.comes_in.id,
        "goesOut": list(change.goes_out),
    }

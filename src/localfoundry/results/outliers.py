"""Runs of one file on one kind of machine whose speeds cannot both be right; revisions of a run that disagree. Pure.

The rule, per file, kind of machine, engine, scenario, language and load, for ITL and TTFT: two runs differ where the
larger median is over 1.25 times the smaller and the 95 % intervals of the medians (six values at least) do not touch.
A run is an outlier where it differs from more than half of the others. With two runs neither is known to be wrong,
and both are flagged. A flag says "look here"; nothing is left out for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from localfoundry.results.distribution import Distribution
from localfoundry.results.models_json import Candidate, SharedRun, Speed

RATIO = 1.25
_GIB = 2**30
_METRICS = ("itl_s", "ttft_s")


class Flag(msgspec.Struct, frozen=True):
    """`run` is the shared id; `why` a sentence with the figures."""

    run: str
    label: str
    why: str


def flags(runs: Sequence[SharedRun]) -> list[Flag]:
    """All flags, in the order of run ids and labels; the same for any order of `runs`."""
    groups: dict[tuple[object, ...], list[tuple[SharedRun, Speed]]] = {}
    for run in counted(runs):
        candidates = {candidate.label: candidate for candidate in run.candidates}
        for speed in run.speed:
            candidate = candidates[speed.label]
            if candidate.file_sha256 is not None:
                groups.setdefault(_kind(run, candidate, speed), []).append((run, speed))
    found = [flag for group in groups.values() for metric in _METRICS for flag in _outliers(group, metric)]
    found += _contradictions(runs)
    return sorted(set(found), key=lambda flag: (flag.run, flag.label, flag.why))


def machine_class(machine: Mapping[str, object]) -> tuple[object, ...]:
    """What makes two machines one kind: processor, threads, and memory to the GiB; their facts as a run has them."""
    memory = machine.get("memory_bytes")
    size = round(memory / _GIB) if isinstance(memory, int | float) else None
    return machine.get("cpu"), machine.get("threads"), size


def machine_words(machine: Mapping[str, object]) -> str:
    """The kind in words."""
    cpu, threads, gib = machine_class(machine)
    return f"{cpu or 'unknown processor'}, {threads or '?'} threads, {gib or '?'} GiB"


def counted(runs: Iterable[SharedRun]) -> list[SharedRun]:
    """One revision of each run: the one that holds all of the others. Where none does, none of them counts.

    A rating goes on after it was shared, and then the later revision holds the earlier one's votes. Two that hold what
    the other lacks cannot both be the run, and who is right is not for arithmetic to say.
    """
    revisions: dict[str, list[SharedRun]] = {}
    for run in runs:
        revisions.setdefault(run.run, []).append(run)
    kept = [revised for group in revisions.values() if (revised := _whole(group)) is not None]
    return sorted(kept, key=lambda run: run.id)


def _whole(group: Sequence[SharedRun]) -> SharedRun | None:
    if len(group) == 1:
        return group[0]
    last = max(group, key=lambda run: (_rows(run).total(), run.id))
    return last if all(_continues(last, other) for other in group) else None


def _rows(run: SharedRun) -> Counter[object]:
    """Every single value, item and vote of a run."""
    found: Counter[object] = Counter(run.votes)
    for row in run.speed:
        place = row.label, row.scenario, row.language, row.load
        for metric in _METRICS:
            measured: Distribution | None = getattr(row, metric)
            found.update((*place, metric, value) for value in (measured.values if measured else ()))
    for task in run.tasks:
        asked = task.label, task.suite, task.language, task.suite_sha256
        found.update((*asked, "passed", item) for item in task.passed)
        found.update((*asked, "failed", item) for item in task.failed)
    return found


def _continues(run: SharedRun, other: SharedRun) -> bool:
    same = (run.kind, run.started_at, run.machine, run.candidates) == (
        other.kind, other.started_at, other.machine, other.candidates,
    )  # fmt: skip
    return same and _rows(run) >= _rows(other)


def _contradictions(runs: Sequence[SharedRun]) -> list[Flag]:
    good = {run.run for run in counted(runs)}
    return [
        Flag(run.id, "", f"there are contents of run {run.run} that contradict each other; none of them counts")
        for run in runs
        if run.run not in good
    ]


def _kind(run: SharedRun, candidate: Candidate, speed: Speed) -> tuple[object, ...]:
    model = candidate.file_sha256, candidate.engine, candidate.engine_version, candidate.threads
    return *model, *machine_class(run.machine), speed.scenario, speed.language, speed.load


def _outliers(group: Sequence[tuple[SharedRun, Speed]], metric: str) -> list[Flag]:
    measured = [(run, speed, d) for run, speed in group if (d := getattr(speed, metric)) is not None]
    found = []
    for run, speed, mine in measured:
        others = [d for other, _, d in measured if other.run != run.run]
        differ = [d for d in others if differs(mine, d)]
        if others and 2 * len(differ) > len(others):
            word = "the other" if len(others) == 1 else f"{len(differ)} of {len(others)} others"
            what = f"{metric} in {speed.scenario}, {speed.language}, {speed.load}"
            middle = sorted(d.median for d in differ)[len(differ) // 2]
            found.append(
                Flag(run.id, speed.label, f"median {what} is {mine.median:.4g} s, {middle:.4g} s in {word} like it")
            )
    return found


def differs(one: Distribution, other: Distribution) -> bool:
    """By the rule above."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    large, small = max(one.median, other.median), min(one.median, other.median)
    return large > RATIO * small and (one.low > other.high or other.low > one.high)

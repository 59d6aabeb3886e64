"""What is known of a model from measurements: shares of items solved and speeds, each with interval, n and source.

Read by recommendations and comparisons. "measured here" is this home's own results, "measured by others" is what was
merged from a team's models.json; the two are never added up, as machines, prompts and care differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from localfoundry.results import db, outliers, sharing, team_file
from localfoundry.results.distribution import Distribution
from localfoundry.results.models_json import Candidate, SharedRun
from localfoundry.results.share import Share, share

Source = Literal["measured here", "measured by others"]


class Accuracy(msgspec.Struct, frozen=True):
    """Items of `task` (a suite) solved; where an item was tried in several runs, its latest try counts.

    `runs` are the shared or local ids that it rests on. `suite_sha256`: of the suite's content; a changed suite has one
    of these for each content, and only those of equal content compare. `engine` ran the model: each has one of its own,
    as they do not compute the same. Of several the one with the most items, then the latest, stands last.
    """

    task: str
    language: str
    share: Share
    source: Source
    runs: tuple[str, ...]
    suite_sha256: str | None = None
    engine: str | None = None


class Speed(msgspec.Struct, frozen=True):
    """Of one run. `median` and its interval (None: too few values) in seconds; `decode_tps` is 1 / median ITL.

    `machine` is its kind, in the words of `outliers.machine_words`; `outlier`: the run was flagged for this candidate.
    """

    scenario: str
    language: str
    load: str
    metric: Literal["ttft_s", "itl_s", "latency_s"]
    n: int
    median: float
    low: float | None
    high: float | None
    source: Source
    run: str
    started_at: str
    machine: str
    engine: str | None
    outlier: bool = False

    @property
    def decode_tps(self) -> float | None:
        return 1 / self.median if self.metric == "itl_s" and self.median > 0 else None


class Evidence(msgspec.Struct, frozen=True):
    """All of it for one model; both empty where nothing was measured."""

    accuracy: tuple[Accuracy, ...] = ()
    speeds: tuple[Speed, ...] = ()


class Known(msgspec.Struct, frozen=True, dict=True):
    """Every run that counts, by source. Read once, asked for many models."""

    here: tuple[SharedRun, ...] = ()
    others: tuple[SharedRun, ...] = ()

    def of(self, *, file_sha256: str | None = None, model_id: str | None = None, task: str | None = None) -> Evidence:
        """What is known of the file with that hash, or of the model with that id where the hash is not told.

        `task` narrows accuracies to one suite. A hash names exact bytes; an id without a version matches any version.
        """
        parts: tuple[tuple[Source, tuple[SharedRun, ...]], ...] = (
            ("measured here", self.here),
            ("measured by others", self.others),
        )
        accuracy: list[Accuracy] = []
        speeds: list[Speed] = []
        for source, runs in parts:
            chosen = [(run, c) for run in runs for c in run.candidates if _is(c, file_sha256, model_id)]
            accuracy += _accuracies(chosen, task, source)
            flagged = self._flagged[source]
            speeds += [speed for run, c in chosen for speed in _speeds(run, c, source, (run.id, c.label) in flagged)]
        return Evidence(tuple(accuracy), tuple(speeds))

    @functools.cached_property
    def _flagged(self) -> dict[Source, set[tuple[str, str]]]:
        """Outliers, by run and label."""
        return {
            "measured here": {(flag.run, flag.label) for flag in outliers.flags(self.here)},
            "measured by others": {(flag.run, flag.label) for flag in outliers.flags(self.others)},
        }


def known(home: Path, told: Callable[[str], None] = lambda _: None) -> Known:
    """Reads both files of `home`. Raises DiskError and InvalidResults as those do; absent files are no evidence.

    `told` hears one sentence where a damaged file was set aside.
    """
    here: tuple[SharedRun, ...] = ()
    if (home / db.FILE_NAME).exists():
        with db.Results(home / db.FILE_NAME, told) as results:
            here = sharing.shared(results, results.runs(), None).runs
    own = {run.run for run in here}
    # What comes back from the team and was measured here is no second opinion.
    others = [run for run in outliers.counted(team_file.of_home(home).runs) if run.run not in own]
    return Known(here, tuple(others))


def _is(candidate: Candidate, file_sha256: str | None, model_id: str | None) -> bool:
    if file_sha256 is not None and candidate.file_sha256 is not None:
        return candidate.file_sha256 == file_sha256
    if model_id is None or candidate.model_id is None:
        return False
    return candidate.model_id == model_id or candidate.model_id.partition(":")[0] == model_id


def _accuracies(chosen: Iterable[tuple[SharedRun, Candidate]], task: str | None, source: Source) -> list[Accuracy]:
    groups: dict[tuple[str, str, str, str], dict[str, tuple[bool, str]]] = {}
    latest: dict[tuple[str, str, str, str], str] = {}
    for run, candidate in sorted(chosen, key=lambda pair: (pair[0].started_at, pair[0].run)):
        for row in run.tasks:
            if row.label == candidate.label and task in (None, row.suite):
                key = row.suite, row.language, row.suite_sha256 or "", candidate.engine or ""
                items = groups.setdefault(key, {})
                items |= dict.fromkeys(row.passed, (True, run.id))
                items |= dict.fromkeys(row.failed, (False, run.id))
                latest[key] = run.started_at
    ordered = sorted(groups.items(), key=lambda group: (group[0][:3], len(group[1]), latest[group[0]], group[0]))
    return [
        Accuracy(
            suite, language, share(sum(passed for passed, _ in items.values()), len(items)), source,
            tuple(sorted({run for _, run in items.values()})), content or None, engine or None,
        )
        for (suite, language, content, engine), items in ordered
        if items
    ]  # fmt: skip


def _speeds(run: SharedRun, candidate: Candidate, source: Source, outlier: bool) -> Iterable[Speed]:
    metrics: tuple[Literal["ttft_s", "itl_s", "latency_s"], ...] = ("ttft_s", "itl_s", "latency_s")
    machine = outliers.machine_words(run.machine)
    for row in run.speed:
        if row.label != candidate.label:
            continue
        for metric in metrics:
            d: Distribution | None = getattr(row, metric)
            if d is not None:
                yield Speed(
                    row.scenario, row.language, row.load, metric, len(d.values), d.median, d.low, d.high, source,
                    run.id, run.started_at, machine, candidate.engine, outlier,
                )  # fmt: skip

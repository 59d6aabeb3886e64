"""What is known of the candidates of a comparison, read from kept runs and not mixed where it does not belong together.

Speeds are compared within one run only: there all candidates were measured in turns, on one machine, in one hour. Two
runs stand in two panels, with a word on machines that differ. Items of suites do count together, the latest answer of
each, unless a label meant another file then or the suite another content: what a model solves does not depend on the
hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from localfoundry.bench import figures, history
from localfoundry.bench.figures import Cell
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Condition
from localfoundry.bench.stats import Summary
from localfoundry.compare import faithful
from localfoundry.compare.cliff import Cliff, cliffs
from localfoundry.compare.faithful import Faithful
from localfoundry.errors import InvalidRequest
from localfoundry.quality import ratings, score
from localfoundry.quality.ratings import Verdict
from localfoundry.quality.results import ItemResult, read_items
from localfoundry.results.db import Results
from localfoundry.results.evidence import Evidence as Shared
from localfoundry.results.outliers import machine_class, machine_words
from localfoundry.results.rows import CandidateRow, Run


class Figures(msgspec.Struct):
    """One candidate under one condition: its cell with every summary, reckoned once."""

    cell: Cell
    metrics: dict[str, Summary]
    throughput: Summary | None
    cost: Summary | None
    peak_bytes: int | None

    @property
    def label(self) -> str:
        return self.cell.label

    @property
    def condition(self) -> Condition:
        return self.cell.condition

    @property
    def measured(self) -> bool:
        """Answers were timed, and it was not given up on the way."""
        return bool(self.cell.good) and self.cell.error is None

    @property
    def latency_s(self) -> float:
        """Median; only of what was measured."""
        return self.metrics["latency_s"].median


class Panel(msgspec.Struct):
    """One run of a bench: what may be compared in speed."""

    run: Run
    rows: dict[str, CandidateRow]
    measurement: Measurement
    figures: list[Figures]

    @property
    def labels(self) -> list[str]:
        return [outcome.candidate.label for outcome in self.measurement.outcomes]

    @property
    def conditions(self) -> list[Condition]:
        """Those with figures, in the order of measuring."""
        return list(dict.fromkeys(f.condition for f in self.figures))

    def under(self, condition: Condition) -> list[Figures]:
        return [f for f in self.figures if f.condition == condition]


class Evidence(msgspec.Struct):
    """All of it. `others`: what a team's models.json says, by label; shown beside, never counted in. `fidelity`: how
    far from their source weights, by label, of those of whom it was measured; `sizes`: bytes of their files."""

    panels: list[Panel] = []
    items: list[ItemResult] = []
    item_runs: list[Run] = []
    rows: dict[str, CandidateRow] = {}
    scores: list[score.Score] = []
    differences: list[score.Difference] = []
    cliffs: list[Cliff] = []
    votes: list[Verdict] = []
    others: dict[str, Shared] = {}
    fidelity: dict[str, Faithful] = {}
    sizes: dict[str, int] = {}
    notes: list[str] = []

    @property
    def labels(self) -> list[str]:
        found = [label for panel in self.panels for label in panel.labels]
        found += [result.model for result in self.items]
        return list(dict.fromkeys(found or self.fidelity))


def panel(run: Run, rows: Iterable[CandidateRow], measurement: Measurement) -> Panel:
    """A measurement with its figures."""
    peaks = {outcome.candidate.label: outcome.peak_bytes for outcome in measurement.outcomes}
    every = [
        Figures(
            cell,
            figures.metrics(cell),
            figures.throughput(cell, measurement.plan),
            figures.costs(cell) if _priced(cell) else None,
            peaks[cell.label],
        )
        for cell in figures.cells(measurement.plan, measurement.outcomes)
    ]
    return Panel(run, {row.label: row for row in rows}, measurement, every)


def _priced(cell: Cell) -> bool:
    return cell.candidate.price_in is not None or cell.candidate.price_out is not None


def gather(results: Results, runs: Sequence[Run], others: Mapping[str, Shared] | None = None) -> Evidence:
    """Everything in `runs`, in their order. Raises InvalidRequest for runs without a result, DiskError."""
    found = Evidence(others=dict(others or {}))
    items: dict[tuple[object, ...], ItemResult] = {}
    for run in runs:
        rows = results.candidates(run.id)
        figures = faithful.read(results, run)
        if run.kind == "bench":
            _add_panel(found, run, rows, history.read(results, run))
        elif figures:
            found.rows |= {row.label: found.rows.get(row.label, row) for row in rows}
            found.fidelity |= figures
        else:
            _add_items(found, items, run, rows, read_items(results, run.id))
    found.items = _told_apart(found, list(items.values()))
    if not found.panels and not found.items and not found.fidelity:
        names = ", ".join(run.id[-6:].lower() for run in runs)
        raise InvalidRequest(f"run {names} holds no result that could be compared", hint="foundry bench list")
    _conclude(found, results)
    return found


def _add_panel(found: Evidence, run: Run, rows: list[CandidateRow], measurement: Measurement) -> None:
    if not any(outcome.samples or outcome.error for outcome in measurement.outcomes):
        found.notes.append(f"run {short(run)} holds no sample: nothing of it is shown")
        return
    if run.status != "finished":
        found.notes.append(f"run {short(run)} is {run.status}: what it measured is shown")
    found.panels.append(panel(run, rows, measurement))
    for row in rows:
        found.rows.setdefault(row.label, row)


def _add_items(
    found: Evidence,
    items: dict[tuple[object, ...], ItemResult],
    run: Run,
    rows: list[CandidateRow],
    read: list[ItemResult],
) -> None:
    other = set()
    for row in rows:
        if told := _another(found.rows.setdefault(row.label, row), row, run):
            other.add(row.label)
            found.notes.append(f"{told} elsewhere: its items of that run are left out")
    kept = [result for result in read if result.model not in other]
    items.update(((*result.key, result.suite_sha256), result) for result in kept)
    if kept:
        found.item_runs.append(run)
    else:
        found.notes.append(f"run {short(run)} holds no item: nothing of it is shown")


def _another(known: CandidateRow, row: CandidateRow, run: Run) -> str | None:
    """What makes a label of this run something else than the same label of another run; None: nothing that is known."""
    if known.file_sha256 and row.file_sha256 and known.file_sha256 != row.file_sha256:
        return f"{row.label} is file {row.file_sha256[:12]} in run {short(run)} and {known.file_sha256[:12]}"
    if known.engine and row.engine and known.engine != row.engine:
        return f"{row.label} was run by {row.engine} in run {short(run)} and by {known.engine}"
    return None


def _told_apart(found: Evidence, items: list[ItemResult]) -> list[ItemResult]:
    """With the start of its hash behind the name of a suite that there are several contents of: nothing is paired that
    was not asked and checked in the same way."""
    contents: dict[tuple[str, str], set[str | None]] = {}
    for result in items:
        contents.setdefault((result.suite, result.language), set()).add(result.suite_sha256)
    for (suite, language), different in contents.items():
        if len(different) > 1:
            names = ", ".join(sorted(_marked(suite, content) for content in different))
            found.notes.append(
                f"{suite} ({language}) had {len(different)} contents in these runs, which are not compared: {names}"
            )
    return [
        msgspec.structs.replace(result, suite=_marked(result.suite, result.suite_sha256))
        if len(contents[result.suite, result.language]) > 1
        else result
        for result in items
    ]


def _marked(suite: str, content: str | None) -> str:
    return f"{suite}@{content[:8] if content else 'unknown'}"


def _conclude(found: Evidence, results: Results) -> None:
    found.scores = score.scores(found.items)
    found.differences = score.differences(found.items)
    found.cliffs = cliffs(found.rows, found.items)
    labels = set(found.labels)
    found.votes = ratings.verdicts(vote for vote in results.votes() if {vote.a, vote.b} <= labels)
    machines = {machine_class(one.run.machine) for one in found.panels}
    if len(machines) > 1:
        words = "; ".join(f"run {short(one.run)}: {machine_words(one.run.machine)}" for one in found.panels)
        found.notes.append(f"the runs are of different machines, and so their speeds are not compared ({words})")
    elif len(found.panels) > 1:
        found.notes.append(
            "the runs were measured one after the other: speeds are compared within each of them, not between them"
        )


def short(run: Run) -> str:
    """The end of an id, which is random and enough to name a run."""
    return run.id[-6:].lower()

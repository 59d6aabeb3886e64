"""What a comparison still lacks is measured: speeds in turns, then items of suites, each kept as it comes.

A run of before is taken instead where it is the same in everything: candidates, files, plan, machine and versions. What
an endpoint elsewhere answers may have changed in silence, so one with endpoints is always measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.energy import open_meter
from localfoundry.bench.history import read_protocol
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Plan
from localfoundry.bench.record import Protocol, Recorder, candidate_row, plain
from localfoundry.bench.run import measure
from localfoundry.chat.target import Target
from localfoundry.cli import context, engine_choice, output
from localfoundry.cli.bench_progress import BenchWatch
from localfoundry.cli.compare_services import Services
from localfoundry.cli.eval_routes import groups, routed
from localfoundry.compare.evidence import short
from localfoundry.config import Settings
from localfoundry.errors import DiskError
from localfoundry.quality import suite as suites_of
from localfoundry.quality.results import ItemResult, SuiteRun, item_row, read_items
from localfoundry.quality.results import Plan as ItemPlan
from localfoundry.quality.run import evaluate
from localfoundry.results import place
from localfoundry.results.db import Results, now
from localfoundry.results.outliers import machine_class
from localfoundry.results.rows import CandidateRow, Kind, Run, new_id

if TYPE_CHECKING:
    from localfoundry.quality.suite import Suite

_SEED = 42


class Work(msgspec.Struct):
    """What is compared, and how."""

    given: Settings
    candidates: list[Candidate]
    keys: dict[str, str]
    plan: Plan
    suites: list[Suite]
    quiet: bool

    def new_run(self, kind: Kind, protocol: dict[str, object]) -> Run:
        return Run(new_id(), kind, now(), machine=place.machine_facts(), protocol=protocol, versions=place.versions())

    @property
    def item_plan(self) -> ItemPlan:
        told = tuple(SuiteRun(s.name, s.language, s.sha256, tuple(i.id for i in s.items)) for s in self.suites)
        return ItemPlan(tuple(c.label for c in self.candidates), told, seed=_SEED)

    @property
    def item_protocol(self) -> dict[str, object]:
        """As it is read back: through JSON, which knows no tuples."""
        told = {**msgspec.to_builtins(self.item_plan), "candidates": self.candidates}
        found: dict[str, object] = msgspec.json.decode(msgspec.json.encode(told))
        return found


def kept_speeds(work: Work, results: Results) -> Run | None:
    """The newest whole run that measured just this."""
    for run in reversed(results.runs("bench")):
        if run.status == "finished" and _same_place(work, results, run):
            try:
                known = read_protocol(run)
            except DiskError:  # of another version, or imported: no reason not to measure
                continue
            same_plan = msgspec.structs.replace(known.plan, nonce=work.plan.nonce) == work.plan
            failed = any(seen.error or seen.failed for seen in known.seen.values())
            if same_plan and list(known.candidates) == work.candidates and not failed:
                return run
    return None


def kept_items(work: Work, results: Results) -> Run | None:
    """The newest run that asked just these items, whole or not."""
    protocol = work.item_protocol
    same = (run for run in reversed(results.runs("eval")) if run.protocol == protocol)
    return next((run for run in same if run.status != "running" and _same_place(work, results, run)), None)


def _same_place(work: Work, results: Results, run: Run) -> bool:
    """Same machine, versions, engines and files; no endpoint."""
    here = work.new_run("bench", {})
    if any(c.endpoint for c in work.candidates):
        return False
    if machine_class(run.machine) != machine_class(here.machine) or run.versions != here.versions:
        return False
    rows = {row.label: row for row in results.candidates(run.id)}
    return all(_same_run(work.given, candidate, rows.get(candidate.label)) for candidate in work.candidates)


def _same_run(given: Settings, candidate: Candidate, row: CandidateRow | None) -> bool:
    """Whether a load now would give the same file to the same engine as the one that was measured."""
    manifest = context.cached(given, candidate.model)
    if manifest is None or row is None:
        return False
    found = engine_choice.first(given, manifest, candidate.settings)
    if found is None or found.to_make or not engine_choice.is_by(found.engine.name, row.engine):
        return False
    same = row.engine_version in (None, engine_choice.version_words(given, found))
    return same and found.runs.files[0].sha256 == row.file_sha256


async def speeds(work: Work, results: Results, services: Services) -> tuple[Run, bool]:
    """Measure, and return the run and whether it was cut short."""
    run = work.new_run("bench", plain(Protocol(work.plan, tuple(work.candidates))))
    recorder = Recorder.begin(results, run, tuple(work.candidates))
    watch = BenchWatch(recorder, services, work.plan.rounds, quiet=work.quiet)
    targets = {c.label: _target(c, work, services) for c in work.candidates}
    with recorder:
        result = await measure(
            targets, work.candidates, services.load, resident=services.resident, plan=work.plan, watch=watch,
            meter=open_meter(time.perf_counter),
        )  # fmt: skip
        _describe(work, recorder, services, result)
        recorder.finish(result)
    watch.clear()
    for outcome in result.outcomes:
        if outcome.apart:
            output.note(
                f"{outcome.candidate.label} was measured after the others and not in turns: no memory beside them"
            )
    if recorder.problem:
        output.note(f"not everything that was measured is kept: {recorder.problem}")
    return results.run(run.id), result.interrupted


def _target(candidate: Candidate, work: Work, services: Services) -> Target:
    if candidate.endpoint is not None:
        return Target(candidate.endpoint, secret=work.keys.get(candidate.label, ""))
    return services.target(candidate)


def _describe(work: Work, recorder: Recorder, services: Services, result: Measurement) -> None:
    for outcome in result.outcomes:
        candidate = outcome.candidate
        if candidate.endpoint is None:
            outcome.memory = services.memory_of(candidate)
            recorder.candidate(services.described(candidate_row(recorder.run, candidate), candidate, work.given))


async def items(work: Work, results: Results, services: Services, earlier: Run | None) -> tuple[Run, bool]:
    """Ask what `earlier` has no answer to, or everything; the run, and whether it was cut short."""
    run = earlier or work.new_run("eval", work.item_protocol)
    if earlier is None:
        results.begin(run, [candidate_row(run.id, c) for c in work.candidates])
    else:
        results.resume(run.id)
    done = {result.key for result in read_items(results, run.id) if result.error is None}
    recorder = _Keeper(results, run.id, work, len(done))
    meter = open_meter(time.perf_counter)

    def told(candidate: Candidate) -> None:
        results.set_candidate(services.described(candidate_row(run.id, candidate), candidate, work.given))

    try:
        await meter.learn_idle()
        async with routed(services, work.candidates, work.keys, work.plan.timeout_s, meter) as asked:
            turns = await groups(services, work.candidates, told)
            cut = await evaluate(asked, work.item_plan, work.suites, turns, recorder, done=done)
    except BaseException:
        results.finish(run.id, "failed")
        raise
    recorder.clear()
    results.finish(run.id, "interrupted" if cut else "finished")
    return results.run(run.id), cut


class _Keeper:
    """Each answer into the results file; on a terminal a line that says how far it is."""

    def __init__(self, results: Results, run: str, work: Work, done: int) -> None:
        self._results = results
        self._run = run
        self._live = output.shows_progress() and not work.quiet
        self._done = done
        self._total = len(work.candidates) * sum(len(s.items) for s in work.suites)

    def record(self, result: ItemResult) -> None:
        self._results.add_item(item_row(self._run, result))
        self._done += 1
        if self._live:
            output.note(f"\r{self._done}/{self._total}  {result.model}: {result.suite} {result.item}\x1b[K", end="")

    def clear(self) -> None:
        if self._live:
            output.note("\r\x1b[K", end="")


def whole(work: Work, results: Results, run: Run) -> bool:
    """Whether nothing is left to ask."""
    answered = sum(result.error is None for result in read_items(results, run.id))
    return answered >= len(work.candidates) * sum(len(suite.items) for suite in work.suites)


def prompts(suites: Sequence[Suite]) -> dict[tuple[str, str, str], str]:
    """What was asked, by suite, language and item; a haystack is left out."""
    found: dict[tuple[str, str, str], str] = {}
    for suite in suites:
        for item in suite.items:
            said: Any = item.prompt or "\n".join(message.content for message in item.messages or [])
            found[suite.name, suite.language, item.id] = str(said).strip()
    return found


def packs_of(found: Sequence[ItemResult]) -> list[Suite]:
    """The suites that come with this product and that these answers belong to, as they were when they were asked."""
    named = dict.fromkeys((result.suite, result.language, result.suite_sha256) for result in found)
    return [
        pack
        for name, spoken, content in named
        for language in suites_of.LANGUAGES
        if name in suites_of.PACKS and language == spoken and (pack := suites_of.pack(name, language)).sha256 == content
    ]


def told_again(run: Run) -> None:
    output.note(f"measured already, in run {short(run)} of {run.started_at[:16]}; --again measures anew")

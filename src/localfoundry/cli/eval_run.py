"""One run of `foundry eval`: models made ready, items asked, results kept, and the line of progress."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.energy import Meter, open_meter
from localfoundry.bench.record import candidate_row
from localfoundry.cli import output
from localfoundry.cli.bench_run import open_results
from localfoundry.cli.compare_services import opened
from localfoundry.cli.eval_routes import groups, routed
from localfoundry.cli.plain import plain
from localfoundry.config import Settings
from localfoundry.errors import InvalidRequest
from localfoundry.quality import sandbox
from localfoundry.quality.record import Record
from localfoundry.quality.results import ItemResult, Plan, Protocol, latest
from localfoundry.quality.run import evaluate
from localfoundry.quality.suite import Suite
from localfoundry.results import place
from localfoundry.results.db import FILE_NAME, Results, now
from localfoundry.results.rows import CandidateRow, Run, new_id


class Evaluation:
    """A plan that is carried out, on the local service and at endpoints. `keys`: of endpoints, by label."""

    def __init__(
        self, given: Settings, plan: Plan, candidates: Sequence[Candidate], keys: Mapping[str, str],
        suites: Sequence[Suite], timeout_s: float, *, quiet: bool,
    ) -> None:  # fmt: skip
        self._given = given
        self._plan = plan
        self._candidates = candidates
        self._keys = keys
        self._suites = suites
        self._timeout_s = timeout_s
        self._quiet = quiet
        self._began = time.monotonic()
        self._asked = 0
        self._left = len(candidates) * sum(len(suite.items) for suite in suites)

    def run(self, *, resume: bool) -> tuple[Record, bool]:
        """What came of it, and whether it was cut short. Raises InvalidRequest where there is nothing to resume."""
        meter = open_meter(time.perf_counter)
        with self._results(resume) as results:
            earlier = latest(results, self._plan) if results is not None and resume else None
            with self._record(results, earlier, meter.source) as record:
                interrupted = asyncio.run(self._carry_out(record, meter))
                record.finish("interrupted" if interrupted else "finished")
        if output.shows_progress():
            output.note("\r\x1b[K", end="")
        return record, interrupted

    @contextlib.contextmanager
    def _results(self, resume: bool) -> Iterator[Results | None]:
        """None, with the reason told, where there is no place to keep anything and nothing to go on with."""
        results = Results(self._given.home / FILE_NAME, output.note) if resume else open_results(self._given)
        try:
            yield results
        finally:
            if results is not None:
                results.close()

    def _record(self, results: Results | None, earlier: Run | None, energy: str) -> Record:
        if results is not None and earlier is not None:
            return Record.resume(results, earlier)
        protocol: dict[str, object] = msgspec.to_builtins(Protocol(self._plan, sandbox.isolation(), energy))
        run = Run(new_id(), "eval", now(), machine=place.machine_facts(), protocol=protocol, versions=place.versions())
        return Record.begin(results, run, [candidate_row(run.id, candidate) for candidate in self._candidates])

    async def _carry_out(self, record: Record, meter: Meter) -> bool:
        async with opened(self._given, self._candidates, self._quiet) as services:
            changed: list[InvalidRequest] = []

            def loaded(candidate: Candidate) -> None:
                row = services.described(candidate_row(record.run.id, candidate), candidate, self._given)
                if record.answered_by_another(row):
                    changed.append(_changed(record, row))
                    raise changed[-1]
                record.candidate(row)

            await meter.learn_idle()
            async with routed(services, self._candidates, self._keys, self._timeout_s, meter) as asked:
                turns = await groups(services, self._candidates, loaded)
                if changed:
                    raise changed[0]
                done = record.done
                self._left -= len(done)
                self._began = time.monotonic()
                told = self._told if output.shows_progress() else None
                return await evaluate(asked, self._plan, self._suites, turns, record, done=done, on_result=told)

    def _told(self, result: ItemResult) -> None:
        self._asked += 1
        left = self._left - self._asked
        remaining_s = left * (time.monotonic() - self._began) / self._asked
        word = "error" if result.error else "passed" if result.passed else "failed"
        line = (
            f"{self._asked}/{self._left}  {plain(result.model)}: {result.item} {word}; about {remaining_s:.0f} s left"
        )
        output.note(f"\r{line}\x1b[K", end="")


def _changed(record: Record, row: CandidateRow) -> InvalidRequest:
    before = record.row(row.label).engine
    return InvalidRequest(
        f"{row.label} was run by {before} when the run to resume was asked, and is run by {row.engine} now",
        hint="leave --resume out to begin a new run, or choose the engine: --engine NAME",
    )

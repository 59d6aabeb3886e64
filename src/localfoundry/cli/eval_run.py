"""One run of `foundry eval`: models made ready, items asked, results kept, and the line of progress."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.bench_run import open_results
from localfoundry.cli.loading import as_loaded
from localfoundry.cli.plain import plain
from localfoundry.cli.pull import pull_model
from localfoundry.client import ServiceClient, authorization, trust
from localfoundry.config import Settings
from localfoundry.errors import FoundryError
from localfoundry.instance import ServiceState
from localfoundry.quality import sandbox
from localfoundry.quality.ask import Endpoint
from localfoundry.quality.record import Record
from localfoundry.quality.results import ItemResult, Plan, Protocol, latest
from localfoundry.quality.run import Group, evaluate, failed_load
from localfoundry.quality.suite import Suite
from localfoundry.results import place
from localfoundry.results.db import FILE_NAME, Results, now
from localfoundry.results.rows import CandidateRow, Run, new_id


class Evaluation:
    """A plan that is carried out, on the local service or at an endpoint."""

    def __init__(self, given: Settings, plan: Plan, suites: Sequence[Suite], timeout_s: float, *, quiet: bool) -> None:
        self._given = given
        self._plan = plan
        self._suites = suites
        self._timeout_s = timeout_s
        self._quiet = quiet
        self._began = time.monotonic()
        self._asked = 0
        self._left = len(plan.models) * sum(len(suite.items) for suite in suites)

    def run(self, headers: Mapping[str, str], *, resume: bool) -> tuple[Record, bool]:
        """What came of it, and whether it was cut short. Raises InvalidRequest where there is nothing to resume."""
        with self._results(resume) as results:
            earlier = latest(results, self._plan) if results is not None and resume else None
            state = None if self._plan.endpoint else self._service()
            with self._record(results, earlier) as record:
                interrupted = asyncio.run(self._at(state, headers, record))
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

    def _record(self, results: Results | None, earlier: Run | None) -> Record:
        if results is not None and earlier is not None:
            return Record.resume(results, earlier)
        protocol: dict[str, object] = msgspec.to_builtins(Protocol(self._plan, sandbox.isolation()))
        run = Run(new_id(), "eval", now(), machine=place.machine_facts(), protocol=protocol, versions=place.versions())
        return Record.begin(results, run, [self._candidate(run.id, model) for model in self._plan.models])

    def _candidate(self, run: str, model: str) -> CandidateRow:
        from urllib.parse import urlsplit

        host = urlsplit(self._plan.endpoint).hostname if self._plan.endpoint else None
        return CandidateRow(run, model, model, endpoint_host=host)

    def _service(self) -> ServiceState:
        for model in self._plan.models:
            if context.cached(self._given, model) is None:
                pull_model(self._given, model, quiet=self._quiet)
        return instance.start(self._given)[0]

    async def _at(self, state: ServiceState | None, headers: Mapping[str, str], record: Record) -> bool:
        if state is None:
            async with Endpoint(self._plan.endpoint, headers, timeout_s=self._timeout_s) as endpoint:
                return await self._ask(endpoint, [Group(self._plan.models)], record)
        async with (
            ServiceClient(state) as client,
            Endpoint(state.url, authorization(state), trust(state), self._timeout_s) as endpoint,
        ):
            return await self._ask(endpoint, await self._loaded(client, record), record)

    async def _ask(self, endpoint: Endpoint, groups: list[Group], record: Record) -> bool:
        done = record.done
        self._left -= len(done)
        self._began = time.monotonic()
        told = self._told if output.shows_progress() else None
        return await evaluate(endpoint, self._plan, self._suites, groups, record, done=done, on_result=told)

    async def _loaded(self, client: ServiceClient, record: Record) -> list[Group]:
        """All models beside each other; those that memory does not allow follow one at a time."""
        ids: dict[str, str] = {}

        async def load(model: str, retain: bool) -> None:
            account: dict[str, Any] = await client.post("/foundry/load", {"model": model, "retain": retain})
            ids[model] = account["id"]
            record.candidate(as_loaded(self._given, self._candidate(record.run.id, model), account))

        def alone(model: str) -> Group:
            async def prepare() -> dict[str, str]:
                try:
                    await load(model, retain=False)
                except FoundryError as exc:
                    return {model: failed_load(exc)}
                return {}

            return Group((model,), prepare)

        for model in self._plan.models:
            with contextlib.suppress(FoundryError):  # asked for again in a group of its own, where the error is kept
                await load(model, retain=bool(ids))
        resident = {entry["id"] for entry in await client.get("/foundry/ps")}
        together = tuple(model for model in self._plan.models if ids.get(model) in resident)
        return [Group(together), *(alone(model) for model in self._plan.models if model not in together)]

    def _told(self, result: ItemResult) -> None:
        self._asked += 1
        left = self._left - self._asked
        remaining_s = left * (time.monotonic() - self._began) / self._asked
        word = "error" if result.error else "passed" if result.passed else "failed"
        line = (
            f"{self._asked}/{self._left}  {plain(result.model)}: {result.item} {word}; about {remaining_s:.0f} s left"
        )
        output.note(f"\r{line}\x1b[K", end="")

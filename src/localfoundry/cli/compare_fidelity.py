"""The fidelity of the candidates of a comparison: what is kept of the same files and engines, the rest measured."""

from __future__ import annotations

import asyncio

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.record import candidate_row
from localfoundry.cli import fidelity_runs, output
from localfoundry.cli.compare_measure import Work
from localfoundry.cli.compare_services import Services
from localfoundry.cli.eval_fidelity import told
from localfoundry.cli.fidelity_runs import choose
from localfoundry.cli.versions import required
from localfoundry.compare.faithful import Faithful
from localfoundry.errors import FoundryError, InsufficientMemory
from localfoundry.quality import probe
from localfoundry.quality.reference import Reference
from localfoundry.results.db import Results
from localfoundry.results.rows import CandidateRow, Run


class Fidelities:
    """Of one comparison, by label in `found`. `named`: a reference for all of them, else each has that of its source.

    A candidate without a reference, or that fails, has none, and a note says why; the others go on.
    """

    def __init__(self, work: Work, results: Results, named: str | None, every: int, *, again: bool) -> None:
        self.found: dict[str, Faithful] = {}
        self._work, self._results = work, results
        self._named, self._every, self._again = named, every, again
        self._without: set[str] = set()  # labels of which it was said that there is no figure

    def all_kept(self, bench: Run) -> bool:
        """Whether the files and engines of a run of a bench all have their figure; those that have are in `found`."""
        rows = {row.label: row for row in self._results.candidates(bench.id)}
        for candidate in self._local() if not self._again else ():
            against = self._reference(candidate)
            if against is None:
                continue
            kept = fidelity_runs.kept(self._results, rows[candidate.label], against, self._every)
            if kept is not None:
                self.found[candidate.label] = kept
        return not self._left()

    async def measure(self, services: Services) -> bool:
        """One candidate after the other, as nothing here is a time. Whether it was cut short (Ctrl-C)."""
        try:
            for candidate in self._left():
                await self._one(services, candidate)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            return True
        finally:
            if output.shows_progress():
                output.note("\r\x1b[K", end="")
        return False

    async def _one(self, services: Services, candidate: Candidate) -> None:
        against = self._reference(candidate)
        if against is None:
            return
        try:
            try:
                await services.ready(candidate, alone=False)
            except InsufficientMemory:
                await services.ready(candidate, alone=True)
            run = fidelity_runs.new_run(against, self._every)
            row = services.described(candidate_row(run.id, candidate), candidate, self._work.given)
            kept = None if self._again else fidelity_runs.kept(self._results, row, against, self._every)
            self.found[candidate.label] = kept or await self._measured(services, candidate, run, row, against)
        except FoundryError as exc:
            self._gone(candidate, exc)

    async def _measured(
        self, services: Services, candidate: Candidate, run: Run, row: CandidateRow, against: Reference
    ) -> Faithful:
        async with services.client(candidate) as client:
            one = await probe.measure(client, row.model_id or candidate.model, against, self._every,
                                      told(candidate.label))  # fmt: skip
        fidelity_runs.keep(self._results, run, [(row, one)])
        return Faithful(one, run.id)

    def _local(self) -> list[Candidate]:
        return [candidate for candidate in self._work.candidates if candidate.endpoint is None]

    def _left(self) -> list[Candidate]:
        return [c for c in self._local() if c.label not in self.found and c.label not in self._without]

    def _reference(self, candidate: Candidate) -> Reference | None:
        """None, with the reason told, where it has none."""
        try:
            return choose(self._work.given, required(self._work.given, candidate.model), self._named)
        except FoundryError as exc:
            self._gone(candidate, exc)
            return None

    def _gone(self, candidate: Candidate, why: FoundryError) -> None:
        self._without.add(candidate.label)
        output.note(f"no fidelity of {candidate.label}: {why.message}")

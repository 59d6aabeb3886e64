"""Settings loaded, asked and judged for a search (`tuning/search.py`), each request kept as it is answered.

A rung that was measured before on this machine, with the same file and versions, is taken up where it was left: rounds
that are whole are not measured again, which is also how a search goes on after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import statistics
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Outcome
from localfoundry.bench.plan import Plan
from localfoundry.bench.record import Protocol, Recorder, candidate_row, plain
from localfoundry.bench.request import Sample
from localfoundry.bench.run import measure
from localfoundry.cli import output
from localfoundry.cli.bench_progress import BenchWatch
from localfoundry.cli.tune_guard import Guard
from localfoundry.cli.tune_services import TuneServices
from localfoundry.results import place
from localfoundry.results.db import Results, now
from localfoundry.results.rows import Run, new_id
from localfoundry.tuning.guard import Loss
from localfoundry.tuning.purpose import Purpose
from localfoundry.tuning.search import Rounds, Stopped
from localfoundry.tuning.space import Setting

_GROUP = 1000  # rounds of settings that memory keeps apart are numbered from multiples of it
T = TypeVar("T")


class TuneBed:
    """A `search.Bed`. `apart` makes groups of settings that fit the memory together, each with the first of all."""

    def __init__(
        self, services: TuneServices, purpose: Purpose, guard: Guard, key: str, results: Results | None,
        apart: Callable[[Sequence[Setting]], list[list[Setting]]], *, again: bool, quiet: bool,
    ) -> None:  # fmt: skip
        """`key`: of what was measured before and may be taken up; `again`: nothing may."""
        self._services, self._purpose, self._guard, self._results = services, purpose, guard, results
        self._key, self._apart, self._again, self._quiet = key, apart, again, quiet
        self.runs: list[str] = []
        self.together = 1

    def now(self) -> float:
        return time.monotonic()

    def told(self, what: str) -> None:
        if not self._quiet:
            output.note(what)

    async def measure(
        self, settings: Sequence[Setting], rounds: int, stage: str, deadline_s: float
    ) -> dict[Setting, Rounds]:
        """See `search.Bed`."""
        found: dict[Setting, Rounds] = {}
        groups = self._apart(settings)
        for number, group in enumerate(groups):
            ends_s = self.now() + (deadline_s - self.now()) / (len(groups) - number)
            with _stopping():
                await self._services.keep(group)
                outcomes = await self._rung(group, rounds * self.together, f"{stage}/{number}", ends_s)
            for setting, outcome in zip(group, outcomes, strict=True):
                found[setting] = _joined(found.get(setting), self._rounds(outcome, number * _GROUP))
        return found

    async def loss(self, base: Setting, candidate: Setting, deadline_s: float) -> Loss:
        """See `search.Bed`."""
        with _stopping():
            await self._services.keep([base, candidate])
            return await self._guard.compare(base, candidate, deadline_s)

    async def _rung(self, group: Sequence[Setting], rounds: int, stage: str, ends_s: float) -> list[Outcome]:
        candidates = [
            Candidate(s.label, s.version, max_tokens=self._purpose.max_tokens, settings={"setting": s.label})
            for s in group
        ]
        key = _digest(self._key, stage, str(self.together), *(s.label for s in group))
        earlier = self._earlier(key)
        seed = int(_digest(stage)[:6], 16)
        nonce = msgspec.convert(earlier.protocol, Protocol).plan.nonce if earlier else new_id()
        plan = Plan((self._purpose.scenario,), ("en",), (self._purpose.streams,), rounds=rounds, seed=seed, nonce=nonce)
        recorder = self._recorder(plan, candidates, earlier, key)
        watch = BenchWatch(recorder, self._services, rounds, quiet=self._quiet)
        targets = {candidate.label: self._services.target(candidate.label) for candidate in candidates}
        done = self._samples(earlier) if earlier else []
        work = measure(targets, candidates, self._services.load, plan=plan, watch=watch, done=done)
        with recorder or contextlib.nullcontext():
            result, late = await _until(work, ends_s - self.now())
            if recorder is not None:
                recorder.finish(result)
        watch.clear()
        if recorder is not None and self._results is not None:
            self._results.finish(
                recorder.run, "interrupted" if result.interrupted else "finished",
                {**plain(_protocol(plan, candidates)), "tune": key},
            )  # fmt: skip
        if result.interrupted and not late:
            raise Stopped
        return result.outcomes

    def _recorder(self, plan: Plan, candidates: Sequence[Candidate], earlier: Run | None, key: str) -> Recorder | None:
        if self._results is None:
            return None
        if earlier is not None:
            self._results.resume(earlier.id)
            self.runs.append(earlier.id)
            return Recorder(self._results, earlier.id)
        protocol = {**plain(_protocol(plan, candidates)), "tune": key}
        run = Run(new_id(), "tune", now(), machine=place.machine_facts(), protocol=protocol, versions=place.versions())
        self._results.begin(run, [candidate_row(run.id, candidate) for candidate in candidates])
        self.runs.append(run.id)
        return Recorder(self._results, run.id)

    def _earlier(self, key: str) -> Run | None:
        """The newest run of the same rung that did not fail; one of this very search is its own."""
        if self._results is None or self._again:
            return None
        same = (run for run in reversed(self._results.runs("tune")) if run.protocol.get("tune") == key)
        return next((run for run in same if run.status in ("finished", "interrupted")), None)

    def _samples(self, run: Run) -> list[Sample]:
        assert self._results is not None
        return [msgspec.json.decode(raw, type=Sample) for _, raw in self._results.raw_samples(run.id)]

    def _rounds(self, outcome: Outcome, first: int) -> Rounds:
        """The figure of each whole round, and what one costs."""
        by_round: dict[int, list[Sample]] = {}
        for sample in outcome.good:
            by_round.setdefault(sample.round, []).append(sample)
        whole = max((len(samples) for samples in by_round.values()), default=0)
        by_round = {n: samples for n, samples in by_round.items() if n > 0 and len(samples) == whole}
        figures = {n: self._purpose.figure(samples) for n, samples in by_round.items()}
        walls = [max(s.done_s for s in one) - min(s.sent_s for s in one) for one in by_round.values()]
        failed = next(iter(outcome.failed.values()), None)
        return Rounds(
            {first + n: figure for n, figure in _means(figures, self.together).items()},
            outcome.peak_bytes, outcome.load_s or 0.0, self.together * sum(walls) / len(walls) if walls else 0.0,
            outcome.error or failed,
        )  # fmt: skip


def _means(figures: Mapping[int, float | None], together: int) -> dict[int, float]:
    """So many rounds as one, by the mean of the times that they took; those that are not all there are left out."""
    found: dict[int, list[float]] = {}
    for number, figure in figures.items():
        if figure:
            found.setdefault((number - 1) // together + 1, []).append(figure)
    return {n: statistics.harmonic_mean(some) for n, some in found.items() if len(some) == together}


def _protocol(plan: Plan, candidates: Sequence[Candidate]) -> Protocol:
    return Protocol(plan, tuple(candidates))


def _joined(before: Rounds | None, more: Rounds) -> Rounds:
    if before is None:
        return more
    values = {**before.values, **more.values}
    memory = max(before.memory_bytes or 0, more.memory_bytes or 0) or None
    return Rounds(values, memory, more.load_s, more.round_s, before.error or more.error)


async def _until(work: Awaitable[T], left_s: float) -> tuple[T, bool]:
    """What comes of work that takes a cancellation as its end; whether it was the time that ended it."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def end() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(max(left_s, 0.1), end)
    try:
        return await work, late
    finally:
        timer.cancel()


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Ctrl-C as `Stopped`, so that what was measured until then is told."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        raise Stopped from None


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def key_of(sha256: str, purpose: str, versions: Collection[str]) -> str:
    """What rounds belong to: this machine, these bytes, these programs."""
    programs = (f"{name} {version}" for name, version in sorted(place.versions().items()))
    return _digest(place.machine_id(), sha256, purpose, *programs, *sorted(versions))

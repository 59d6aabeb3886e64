"""Carry a plan out, over HTTP only, so that the figures are what a user gets.

Order of events: each model is loaded once and timed; then stage by stage, in each stage one warm-up of every condition
that is thrown away, then the rounds, interleaved over conditions and candidates (A B C A B C), so that a drifting
machine hurts all alike. Loading is the caller's; what it cannot keep beside the others comes after them (`turns`).

A failure is a result: it ends a candidate, or where the server refused the request (HTTP 4xx) that condition of it, and
the others go on. Under a load, single failures are counted and only a round in which nothing succeeded ends anything.
Leaves statistics to `stats` and words to `report`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

import httpx2
import msgspec

from localfoundry.bench import candidates as listed
from localfoundry.bench import figures, loads
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.energy import UNAVAILABLE, Meter
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.pace import Pace
from localfoundry.bench.plan import Condition, Plan, rounds_of
from localfoundry.bench.request import Sample, ask
from localfoundry.bench.turns import Resident, in_turns
from localfoundry.chat.target import Target
from localfoundry.errors import FoundryError

Load = Callable[[Candidate], Awaitable[float | None]]

_STRAGGLERS_S = 30.0  # how long an open loop's stragglers are waited for


class Progress(msgspec.Struct, frozen=True):
    """Where a measurement is: requests done and to do, and seconds left as far as can be told."""

    label: str
    condition: Condition
    round: int
    done: int
    total: int
    left_s: float | None


class Watch:
    """What a caller may hear of a running measurement. Called from the event loop; must not block."""

    def sample(self, sample: Sample) -> None:
        """After each request; round 0 is the warm-up."""

    def progress(self, progress: Progress) -> None:
        """Before each round of a condition of a candidate."""

    def memory_bytes(self, candidate: Candidate) -> int | None:
        """Asked between requests: private memory of the process that runs the candidate, where it is known."""
        return None


async def measure(
    targets: Target | Mapping[str, Target],
    candidates: Sequence[Candidate],
    load: Load | None = None,
    *,
    resident: Resident | None = None,
    plan: Plan | None = None,
    watch: Watch | None = None,
    meter: Meter | None = None,
    done: Sequence[Sample] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Measure every candidate; the failure of one is its `error`, and the others go on.

    `targets`: one for all candidates, or one for each label. `load(candidate)` makes a model ready, keeps the others,
    and returns the seconds it took or None where it was ready; it raises FoundryError. `resident`: which of them were
    kept; who was not is measured after the others. `done` are samples of the same
    plan from before: rounds that are whole are not measured again.
    A cancellation (Ctrl-C) ends the measuring, is taken as answered and returns what there is with `interrupted` set;
    only a second one while the connections close is passed on. Raises InvalidRequest for a list that cannot be run.
    """
    plan = plan or Plan()
    listed.check(candidates)
    plan.check()
    result = Measurement(plan, datetime.now(UTC).isoformat(timespec="seconds"), [Outcome(one) for one in candidates])
    of = targets if isinstance(targets, Mapping) else {candidate.label: targets for candidate in candidates}
    began = clock()
    try:
        async with _connected(of, plan.timeout_s) as clients:
            session = _Session(result, clients, of, watch or Watch(), meter, lambda: round(clock() - began, 6))
            session.take_over(done)
            await session.run(load, resident)
    except asyncio.CancelledError:
        result.interrupted = True
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    result.wall_s = clock() - began
    return result


@contextlib.asynccontextmanager
async def _connected(of: Mapping[str, Target], timeout_s: float) -> AsyncIterator[dict[Target, httpx2.AsyncClient]]:
    """One pool of connections for each target."""
    async with contextlib.AsyncExitStack() as stack:
        yield {target: await stack.enter_async_context(target.open(timeout_s)) for target in set(of.values())}


class _Session:
    """One measurement under way: what is finished, what is given up, one clock for all stamps."""

    def __init__(
        self, result: Measurement, clients: Mapping[Target, httpx2.AsyncClient], of: Mapping[str, Target],
        watch: Watch, meter: Meter | None, now: Callable[[], float],
    ) -> None:  # fmt: skip
        self.result = result
        self.plan = result.plan
        self._clients = clients
        self._of = of
        self._watch = watch
        self._meter = meter
        self._now = now
        self._pace = Pace()
        self._leaving = asyncio.Lock()
        self._earlier: dict[tuple[str, str, int], list[Sample]] = {}
        self._done = 0
        self._turns: list[list[Outcome]] = []  # the group that is measured now, and those to come

    def take_over(self, done: Sequence[Sample]) -> None:
        """Keep what was measured before, as far as its round is whole."""
        for sample in done:
            # A request that failed alone is asked again: whoever resumes has mended something.
            if sample.round > 0 and (sample.error is None or sample.load != "c=1"):
                key = sample.label, f"{sample.scenario}/{sample.language}/{sample.load}", sample.round
                self._earlier.setdefault(key, []).append(sample)

    async def run(self, load: Load | None, resident: Resident | None) -> None:
        await self._measure_idle()
        await self._load_all(load, self.result.outcomes)
        self._turns = await in_turns(self.result.outcomes, resident)
        while self._turns:
            group = self._turns[0]
            if group[0].apart:
                await self._load_all(load, group)
            await self._measure(group)
            del self._turns[0]

    async def _measure(self, group: Sequence[Outcome]) -> None:
        """Every stage, in turns."""
        stages = self.plan.stages()
        for place, stage in enumerate(stages):
            for round_number, condition in rounds_of(self.plan, stage):
                for outcome in group:
                    if not _given_up(outcome, condition):
                        self._tell(outcome, condition, round_number, stages[place:])
                        await self._step(outcome, condition, round_number)
            self._end_sweeps(stage, stages[place + 1 :], group)

    async def _measure_idle(self) -> None:
        if self._meter is not None and self._meter.source != UNAVAILABLE:
            await self._meter.learn_idle()
            self.result.energy, self.result.idle_w = self._meter.source, self._meter.idle_w

    async def _load_all(self, load: Load | None, outcomes: Sequence[Outcome]) -> None:
        if load is None:
            return
        done: dict[tuple[str, str], tuple[float | None, str | None]] = {}
        for outcome in outcomes:
            candidate = outcome.candidate
            if candidate.endpoint is not None:
                continue
            key = candidate.model, str(candidate.settings)
            if key not in done:
                try:
                    done[key] = await load(candidate), None
                except FoundryError as exc:
                    done[key] = None, exc.message
            outcome.load_s, outcome.error = done[key]

    async def _step(self, outcome: Outcome, condition: Condition, round_number: int) -> None:
        """One round of one condition of one candidate."""
        label = outcome.candidate.label
        earlier = self._earlier.get((label, condition.key, round_number), [])
        if round_number and len(earlier) >= self.plan.requests(condition):
            outcome.samples += earlier
            self._done += len(earlier)
            return
        if round_number == 0 and self._whole_before(label, condition):
            return
        before, began = self._meter.read() if self._meter else None, self._now()
        samples = await self._requests(outcome, condition, round_number)
        if round_number:
            self._pace.took((label, condition.key), self._now() - began)
            self._share_energy(outcome, samples, before)
        self._judge(outcome, condition, samples)
        outcome.peak_bytes = max(outcome.peak_bytes or 0, self._watch.memory_bytes(outcome.candidate) or 0) or None

    def _whole_before(self, label: str, condition: Condition) -> bool:
        """Whether nothing is left to measure, and so nothing to warm up for."""
        whole = self.plan.requests(condition)
        rounds = range(1, self.plan.rounds + 1)
        return all(len(self._earlier.get((label, condition.key, number), [])) >= whole for number in rounds)

    async def _requests(self, outcome: Outcome, condition: Condition, round_number: int) -> list[Sample]:
        """The requests of a round, each kept as soon as it is answered: what comes later can be interrupted."""
        taken: list[Sample] = []

        async def one(seq: int, due: float | None) -> None:
            sample = await self._ask(outcome.candidate, condition, round_number, seq, due)
            taken.append(sample)
            self._keep(outcome, sample)

        if condition.concurrency == 1 and condition.rate is None:
            for seq in range(self.plan.requests(condition) if round_number else 1):
                await one(seq, None)
                if _ends_all(taken[-1]):
                    break
        elif condition.rate is None:
            assert condition.concurrency is not None
            count = self.plan.requests(condition) if round_number else condition.concurrency
            await loads.closed_loop(one, count, condition.concurrency)
        elif round_number == 0:
            await one(0, None)
        else:
            arrivals = self.plan.arrivals(condition, round_number)
            drain_s = self.plan.duration_s + _STRAGGLERS_S
            for seq, due in await loads.open_loop(one, arrivals, self._now, drain_s):
                missing = self._unanswered(outcome.candidate, condition, round_number, seq, due)
                taken.append(missing)
                self._keep(outcome, missing)
        return taken

    def _keep(self, outcome: Outcome, sample: Sample) -> None:
        self._done += 1
        if sample.round or sample.error:
            outcome.samples.append(sample)
        self._watch.sample(sample)

    async def _ask(
        self, candidate: Candidate, condition: Condition, round_number: int, seq: int, due: float | None
    ) -> Sample:
        target = self._of[candidate.label]
        question = self.plan.question(candidate, condition, round_number, seq, self._twin(candidate))
        client = self._clients[target]
        return await ask(client, question, self._now, self.plan.timeout_s, due, target.secret, self._leaving)

    def _unanswered(
        self, candidate: Candidate, condition: Condition, round_number: int, seq: int, due: float
    ) -> Sample:
        question = self.plan.question(candidate, condition, round_number, seq, self._twin(candidate))
        return Sample(
            candidate.label, candidate.model, round_number, due, self._now(), scenario=condition.scenario,
            language=condition.language, load=condition.load, seq=seq, prompt_id=question.prompt_id, due_s=due,
            error="not answered when the measuring ended",
        )  # fmt: skip

    def _twin(self, candidate: Candidate) -> int:
        known = [one.candidate for one in self.result.outcomes]
        same = [c.label for c in known if (c.model, c.endpoint) == (candidate.model, candidate.endpoint)]
        return same.index(candidate.label)

    def _share_energy(self, outcome: Outcome, samples: list[Sample], before: tuple[float, float] | None) -> None:
        """What the machine spent on a round, in equal parts; an endpoint elsewhere has spent nothing here."""
        if self._meter is None or outcome.candidate.endpoint is not None or not samples:
            return
        spent = self._meter.spent(before, self._meter.read())
        if spent is None:
            return
        for sample in samples:
            told = msgspec.structs.replace(sample, energy_j=spent / len(samples))
            outcome.samples[outcome.samples.index(sample)] = told
            self._watch.sample(told)

    def _judge(self, outcome: Outcome, condition: Condition, samples: Sequence[Sample]) -> None:
        """Give a candidate up, or one condition of it, where a whole round of it failed."""
        last = samples[-1] if samples else None
        if last is None or last.error is None:
            return
        if _ends_all(last) and (condition.load == "c=1" or all(sample.error for sample in samples)):
            # A model that hangs would otherwise cost its timeout in every round of every condition.
            outcome.error = last.error
        elif all(sample.error for sample in samples):
            outcome.failed[condition.key] = last.error
            if all(condition.key in outcome.failed for condition in self.plan.conditions()):
                outcome.error = last.error

    def _end_sweeps(self, stage: list[Condition], later: list[list[Condition]], group: Sequence[Outcome]) -> None:
        """Take higher concurrencies off where throughput no longer grows."""
        for condition in stage:
            above = [c for one in later for c in one if _same_work(c, condition) and c.rate is None]
            if condition.rate is not None or not above:
                continue
            for outcome in group:
                words = figures.saturation(self.plan, outcome.samples, condition)
                if words is not None and not _given_up(outcome, condition):
                    outcome.saturated.update({c.key: words for c in above})

    def _tell(self, outcome: Outcome, condition: Condition, number: int, stages: list[list[Condition]]) -> None:
        left: list[tuple[str, str]] = []
        to_do = 0
        for turn, group in enumerate(self._turns):
            for place, stage in enumerate(self.plan.stages() if turn else stages):
                rounds = self.plan.rounds + 1 - (0 if turn or place else number)
                for one, each in itertools.product(stage, group):
                    if not _given_up(each, one):
                        left += [(each.candidate.label, one.key)] * rounds
                        to_do += rounds * self.plan.requests(one)
        told = Progress(
            outcome.candidate.label, condition, number, self._done, self._done + to_do, self._pace.left_s(left)
        )
        self._watch.progress(told)


def _ends_all(sample: Sample) -> bool:
    """Whether this failure says something of the candidate, and not only of what was asked for."""
    refused = sample.status is not None and 400 <= sample.status < 500 and sample.status != 429
    return sample.error is not None and not refused


def _same_work(a: Condition, b: Condition) -> bool:
    return (a.scenario, a.language) == (b.scenario, b.language)


def _given_up(outcome: Outcome, condition: Condition) -> bool:
    return outcome.error is not None or condition.key in outcome.failed or condition.key in outcome.saturated

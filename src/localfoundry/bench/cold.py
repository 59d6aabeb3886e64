"""From nothing to a first token, and from one model to another: what a user waits for who has just sat down.

`cold`: the service is stopped; the clock runs from its start to the first token of a request that names the model.
`switch`: another model is loaded; the clock runs from a request that names this one. In each round every model is
started cold, asked for the next one, and again (A, B, A), so each is switched to once a round. The files' bytes are in
the system's page cache after the first round, which is thrown away: the disk is not what is measured.

Starting and stopping are the caller's, who has a service of its own for it; one in use is never stopped for this.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.plan import COLD_START, SWITCH, Condition
from localfoundry.bench.request import Sample, ask
from localfoundry.bench.run import Watch
from localfoundry.chat.target import Target
from localfoundry.errors import FoundryError


class Lifecycle(Protocol):
    """A service that may be started and stopped at will."""

    async def start(self) -> Target:
        """From stopped to listening. Raises FoundryError."""

    async def stop(self) -> None:
        """Wait until it is gone."""


async def measure_cold(
    result: Measurement, lifecycle: Lifecycle, watch: Watch, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Add the samples to `result`; a cancellation (Ctrl-C) ends it early and sets `interrupted`."""
    local = [outcome for outcome in result.outcomes if outcome.candidate.endpoint is None and not outcome.error]
    session = _Session(result, lifecycle, watch, clock)
    try:
        for number in range(result.plan.rounds + 1):
            for place, outcome in enumerate(local):
                if not _whole(outcome, number):
                    await session.start_cold(outcome, local[place + 1 :] + local[:place], number)
    except asyncio.CancelledError:
        result.interrupted = True
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    finally:
        await asyncio.shield(lifecycle.stop())


def _whole(outcome: Outcome, number: int) -> bool:
    """Whether a round was measured before, or the model was given up."""
    failed = COLD_START.key in outcome.failed
    return failed or any(s.round == number and s.scenario == COLD_START.scenario for s in outcome.samples)


class _Session:
    def __init__(self, result: Measurement, lifecycle: Lifecycle, watch: Watch, clock: Callable[[], float]) -> None:
        self._result = result
        self._lifecycle = lifecycle
        self._watch = watch
        self._clock = clock
        self._began = clock()

    def _now(self) -> float:
        return round(self._clock() - self._began, 6)

    async def start_cold(self, outcome: Outcome, others: Sequence[Outcome], number: int) -> None:
        """One cold start, then to the next model and back."""
        await self._lifecycle.stop()
        due = self._now()
        try:
            target = await self._lifecycle.start()
        except FoundryError as exc:
            outcome.failed[COLD_START.key] = exc.message
            return
        if not await self._first_token(outcome, target, COLD_START, number, due):
            return
        other = next((one for one in others if one.candidate.model != outcome.candidate.model), None)
        if other is not None:
            # Away first, which is the other's to measure from its own place in the round; then back, which is ours.
            away = await self._ask(other.candidate, target, SWITCH, number, None)
            if away.error is None:
                await self._first_token(outcome, target, SWITCH, number, None)

    async def _first_token(
        self, outcome: Outcome, target: Target, condition: Condition, number: int, due: float | None
    ) -> bool:
        sample = await self._ask(outcome.candidate, target, condition, number, due)
        if sample.error is not None:
            outcome.failed[condition.key] = sample.error
        if number or sample.error:
            outcome.samples.append(sample)
        self._watch.sample(sample)
        return sample.error is None

    async def _ask(
        self, candidate: Candidate, target: Target, condition: Condition, number: int, due: float | None
    ) -> Sample:
        plan = self._result.plan
        question = plan.question(candidate, condition, number, 0, 0)
        async with target.open(plan.timeout_s) as client:
            return await ask(client, question, self._now, plan.timeout_s, due, target.secret)

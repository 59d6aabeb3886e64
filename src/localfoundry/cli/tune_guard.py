"""What a candidate says beside the default, asked of both: next-token distributions, and items of tasks.

Both are loaded at the same time and asked in turns, a few prompts at once. An engine that scores a whole prompt at once
does so instead, in a service beside them: a passage takes what one position takes otherwise. Where the deadline comes
first, what was asked until then counts, and a short comparison proves little: its interval says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import zip_longest

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.cli.tune_answers import Answers
from localfoundry.cli.tune_services import TuneServices
from localfoundry.errors import FoundryError
from localfoundry.quality import suite as suites
from localfoundry.quality.ask import Endpoint, Route, Routed
from localfoundry.quality.fidelity import Position
from localfoundry.quality.probe import NoLogprobs
from localfoundry.quality.reference import Reference, Row
from localfoundry.quality.results import ItemResult, Plan
from localfoundry.quality.run import Group, evaluate
from localfoundry.quality.suite import Suite
from localfoundry.tuning import guard
from localfoundry.tuning.guard import Loss
from localfoundry.tuning.space import Setting

# Of a reference. Each deviates by about 0.22: what loses 0.7 % is then just shown to be within 2 %. A chunk begins with
# a second of reading and goes on with 14 ms a position, so that half of its positions prove more than a third of them
# in the same time, although of fewer chunks.
POSITIONS = 1536
_OWN_POSITIONS = 96  # of our own passages, where the divergence itself is the loss and varies less
_AT_ONCE = 3  # chunks
_LEAST_POSITIONS = 24  # fewer prove nothing, and the interval of so few may not know that
_ITEMS = 8  # of each suite
_SUITES = ("extraction", "chat")
_TIMEOUT_S = 120.0
_WORDS = 6  # of a passage, from one position to the next
_TASKS_SHARE = 0.4  # of the time


class Guard:
    """Compares settings with the default. `reference`: what the source weights say, where that is known."""

    def __init__(self, services: TuneServices, reference: Reference | None, bound: float) -> None:
        self._services, self._reference, self._bound = services, reference, bound
        self._answers: dict[Setting, Answers] = {}  # of the default, which many are compared with

    async def compare(self, base: Setting, candidate: Setting, deadline_s: float) -> Loss:
        """`deadline_s` by `time.monotonic`. A candidate that cannot be asked is not within the bound."""
        try:
            for setting in (base, candidate):
                await self._services.load(Candidate(setting.label, setting.version))
            positions, unavailable = await self._positions(base, candidate, _share(deadline_s, 1 - _TASKS_SHARE))
        except FoundryError as exc:
            return Loss(within=False, words=f"what it costs in quality is not known: {exc.message}")
        if len(positions) < _LEAST_POSITIONS:
            positions = []
        verdict = guard.judged(positions, self._bound, {}, {}, unavailable)
        if not verdict.within:
            return verdict
        passed = await self._items(base, candidate, deadline_s)
        return guard.judged(positions, self._bound, passed[base.label], passed[candidate.label], unavailable)

    async def _positions(
        self, base: Setting, candidate: Setting, deadline_s: float
    ) -> tuple[list[Position], str | None]:
        """As many as there is time for, or why there are none."""
        found: list[Position] = []
        its = self._answers.setdefault(base, Answers(self._services, base))
        mine = Answers(self._services, candidate)
        try:
            async with asyncio.timeout(max(deadline_s - time.monotonic(), 1.0)):
                async with contextlib.aclosing(self._both(its, mine)) as positions:
                    async for position in positions:
                        found.append(position)  # noqa: PERF401 the deadline may come, and what is found counts
        except TimeoutError:
            pass
        except NoLogprobs as exc:
            return [], str(exc)
        return found, None

    def _both(self, base: Answers, candidate: Answers) -> AsyncGenerator[Position, None]:
        if self._reference is not None:
            return self._by_reference(self._reference, base, candidate)
        return self._by_default(base, candidate)

    async def _by_reference(
        self, reference: Reference, base: Answers, candidate: Answers
    ) -> AsyncGenerator[Position, None]:
        """Several chunks beside each other; in each, a position is the one before and some tokens more."""
        rows = reference.rows(max(reference.positions // POSITIONS, 1))
        chunks = [[row for row in rows if row.chunk == number] for number in range(len(reference.chunks))]
        async with base.scoring(), candidate.scoring():
            for first in range(0, len(chunks), _AT_ONCE):
                here = chunks[first : first + _AT_ONCE]
                for side in (base, candidate):
                    for chunk in range(first, first + len(here)):
                        await side.score(chunk, reference.chunks[chunk])
                for step in zip_longest(*here):
                    asked = {r: tuple(reference.chunks[r.chunk][: r.position]) for r in step if r is not None}
                    for position in await _compared(base, candidate, asked):
                        yield position

    async def _by_default(self, base: Answers, candidate: Answers) -> AsyncGenerator[Position, None]:
        passages = _passages()
        each = max(_OWN_POSITIONS // len(passages), 1)
        for number, words in enumerate(passages):
            for place in range(each):
                prompt = " ".join(words[: (place + 2) * _WORDS])
                [of_base], [of_candidate] = await base.after({prompt: None}), await candidate.after({prompt: None})
                yield guard.against_default((number, place), of_base, of_candidate)

    async def _items(self, base: Setting, candidate: Setting, deadline_s: float) -> dict[str, dict[str, bool]]:
        """Which items each solved, as far as both were asked."""
        keeper = _Passed((base.label, candidate.label))
        chosen = [_first_of(suites.pack(name, "en")) for name in _SUITES]
        async with (
            Endpoint(self._services.target(base.label), _TIMEOUT_S) as one,
            Endpoint(self._services.target(candidate.label), _TIMEOUT_S) as other,
        ):
            routed = Routed({base.label: Route(one, base.version), candidate.label: Route(other, candidate.version)})
            group = Group((base.label, candidate.label))
            task = asyncio.ensure_future(evaluate(routed, Plan(group.models, ()), chosen, [group], keeper))
            await asyncio.wait([task], timeout=max(deadline_s - time.monotonic(), 1.0))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return keeper.passed


async def _compared(base: Answers, candidate: Answers, asked: Mapping[Row, tuple[int, ...]]) -> list[Position]:
    """Positions of which each one's prompt is given. One engine after the other: threads of two that compute at once
    mostly wait for each other."""
    for side in (base, candidate):
        await side.ask(asked)
    its, mine = [[side.position(row, prompt) for row, prompt in asked.items()] for side in (base, candidate)]
    return guard.against_reference(its, mine)


class _Passed:
    def __init__(self, labels: Sequence[str]) -> None:
        self.passed: dict[str, dict[str, bool]] = {label: {} for label in labels}

    def record(self, result: ItemResult) -> None:
        if result.error is None:
            self.passed[result.model][f"{result.suite}/{result.item}"] = result.passed


def _first_of(suite: Suite) -> Suite:
    return msgspec.structs.replace(suite, items=suite.items[:_ITEMS])


def _passages() -> list[list[str]]:
    """Texts of ours, long enough: what is put to models by the packs of tasks."""
    texts = [item.prompt or "" for name in ("extraction", "reasoning") for item in suites.pack(name, "en").items]
    return [words for words in (text.split() for text in texts) if len(words) >= 3 * _WORDS][:16]


def _share(deadline_s: float, share: float) -> float:
    now = time.monotonic()
    return now + (deadline_s - now) * share

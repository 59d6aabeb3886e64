"""What a candidate says beside the default, asked of both: next-token distributions, and items of tasks.

Both are loaded at the same time and asked in turns, a few prompts at once. Where the deadline comes first, what was
asked until then counts, and a short comparison proves little: its interval says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.cli.tune_services import TuneServices
from localfoundry.errors import FoundryError
from localfoundry.quality import fidelity, probe
from localfoundry.quality import suite as suites
from localfoundry.quality.ask import Endpoint, Route, Routed
from localfoundry.quality.fidelity import Position
from localfoundry.quality.probe import NoLogprobs
from localfoundry.quality.reference import Reference
from localfoundry.quality.results import ItemResult, Plan
from localfoundry.quality.run import Group, evaluate
from localfoundry.quality.suite import Suite
from localfoundry.tuning import guard
from localfoundry.tuning.guard import Loss
from localfoundry.tuning.space import Setting

POSITIONS = 1000  # of a reference: what loses 0.7 %, at a divergence of 0.014, is then just shown to be within 2 %
_OWN_POSITIONS = 96  # of our own passages, where the divergence itself is the loss and varies less
_AT_ONCE = 3  # chunks
_LEAST_POSITIONS = 24  # fewer prove nothing, and the interval of so few may not know that
_ITEMS = 8  # of each suite
_SUITES = ("extraction", "chat")
_TIMEOUT_S = 120.0
_WORDS = 6  # of a passage, from one position to the next
_TASKS_SHARE = 0.4  # of the time

Prompt = tuple[int, ...] | str
Distribution = dict[int, float]  # log probability by token
T = TypeVar("T")


class Guard:
    """Compares settings with the default. `reference`: what the source weights say, where that is known."""

    def __init__(self, services: TuneServices, reference: Reference | None, bound: float) -> None:
        self._services, self._reference, self._bound = services, reference, bound
        self._of_base: dict[tuple[Setting, Prompt], Distribution] = {}

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
        found: list[Position] = []
        try:
            async with asyncio.timeout(max(deadline_s - time.monotonic(), 1.0)):
                if self._reference is not None:
                    await self._by_reference(self._reference, base, candidate, found)
                else:
                    await self._by_default(base, candidate, found)
        except TimeoutError:
            pass
        except NoLogprobs as exc:
            return [], str(exc)
        return found, None

    async def _by_reference(
        self, reference: Reference, base: Setting, candidate: Setting, found: list[Position]
    ) -> None:
        """Several chunks beside each other; in each, a position is the one before and some tokens more."""
        rows = reference.rows(max(reference.positions // POSITIONS, 1))
        chunks = [[row for row in rows if row.chunk == number] for number in range(len(reference.chunks))]
        for first in range(0, len(chunks), _AT_ONCE):
            for step in zip_longest(*chunks[first : first + _AT_ONCE]):
                here = [row for row in step if row is not None]
                prompts = [tuple(reference.chunks[row.chunk][: row.position]) for row in here]
                for row, its, mine in zip(here, *await self._both(base, candidate, prompts), strict=True):
                    found.extend(guard.against_reference([fidelity.compare(row, its)], [fidelity.compare(row, mine)]))

    async def _by_default(self, base: Setting, candidate: Setting, found: list[Position]) -> None:
        passages = _passages()
        each = max(_OWN_POSITIONS // len(passages), 1)
        for number, words in enumerate(passages):
            for place in range(each):
                prompt = " ".join(words[: (place + 2) * _WORDS])
                [of_base], [of_candidate] = await self._both(base, candidate, [prompt])
                found.append(guard.against_default((number, place), of_base, of_candidate))

    async def _both(
        self, base: Setting, candidate: Setting, prompts: Sequence[Prompt]
    ) -> tuple[list[Distribution], list[Distribution]]:
        """What each says next to each of them. One engine after the other: threads of two that compute at once mostly
        wait for each other. The default is asked once, whoever is compared with it."""
        new = [prompt for prompt in prompts if (base, prompt) not in self._of_base]
        for prompt, found in zip(new, await self._asked(base, new), strict=True):
            self._of_base[base, prompt] = found
        return [self._of_base[base, prompt] for prompt in prompts], await self._asked(candidate, prompts)

    async def _asked(self, setting: Setting, prompts: Sequence[Prompt]) -> list[Distribution]:
        async with self._services.client(setting.label) as client:
            return await _beside([probe.top(client, setting.version, prompt) for prompt in prompts])

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


async def _beside(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it at the same time; where one fails or all are cancelled, none goes on."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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

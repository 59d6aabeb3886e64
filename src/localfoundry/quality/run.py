"""Puts suites to models, in turns, and hands each result on as soon as it is known.

Items are interleaved over the models that are ready together (item 1: A B C, item 2: A B C), so that a drifting machine
hurts all alike; models that cannot be loaded beside each other come group after group. Which groups there are, and
loading, is the caller's. A model that fails goes on failing item by item, each with its error; after `GIVE_UP_AFTER`
in a row that speak against the model or its endpoint the rest is filled in without asking, and at once where the key,
the address or the name was refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from localfoundry.errors import FoundryError
from localfoundry.quality import checks, prompts, recall
from localfoundry.quality.ask import Asked, Heard
from localfoundry.quality.results import ItemResult, Plan, Recorder
from localfoundry.quality.suite import Item, Language, Suite

GIVE_UP_AFTER = 3
MAX_KEPT_CHARACTERS = 20_000  # of an answer in the results; checks see all of it

Key = tuple[str, str, str, str]


class Group(msgspec.Struct, frozen=True):
    """Models that are asked in turns. `prepare` makes them ready and returns those that are not, with the reason."""

    models: tuple[str, ...]
    prepare: Callable[[], Awaitable[Mapping[str, str]]] | None = None


async def evaluate(
    endpoint: Asked,
    plan: Plan,
    suites: Sequence[Suite],
    groups: Sequence[Group],
    recorder: Recorder,
    *,
    done: Collection[Key] = (),
    on_result: Callable[[ItemResult], None] | None = None,
) -> bool:
    """Ask everything that is not in `done`; True where it was cut short.

    A cancellation (Ctrl-C) ends the run and is taken as answered; what was recorded stays. Raises InvalidSuite for a
    check that is none (`checks.usable` finds those before).
    """
    runner = _Runner(endpoint, plan, recorder, on_result)
    try:
        for group in groups:
            await runner.run(group, suites, set(done))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return True
    return False


class _Runner:
    def __init__(
        self, endpoint: Asked, plan: Plan, recorder: Recorder, on_result: Callable[[ItemResult], None] | None
    ) -> None:
        self._endpoint = endpoint
        self._plan = plan
        self._recorder = recorder
        self._on_result = on_result
        self._row: dict[str, int] = {}  # failures in a row that speak against the model
        self._given_up: dict[str, str] = {}

    async def run(self, group: Group, suites: Sequence[Suite], done: Collection[Key]) -> None:
        left = [
            (suite, item, model)
            for suite in suites
            for item in suite.items
            for model in group.models
            if (suite.name, suite.language, item.id, model) not in done
        ]
        if left and group.prepare is not None:
            self._given_up |= await group.prepare()
        for suite, item, model in left:
            result = await self._ask(suite, item, model)
            self._recorder.record(result)
            if self._on_result is not None:
                self._on_result(result)

    async def _ask(self, suite: Suite, item: Item, model: str) -> ItemResult:
        reason = self._given_up.get(model)
        if reason is not None:
            heard = Heard(error=f"not asked: {reason}", energy_j=0.0)
        else:
            heard = await self._endpoint.ask(body(suite, item, model, self._plan))
            self._judge(model, heard)
        failed = () if heard.error else await asyncio.to_thread(checks.failures, item, heard.reply)
        calls = msgspec.json.encode(heard.reply.calls).decode() if heard.reply.calls else ""
        return ItemResult(
            suite=suite.name,
            language=suite.language,
            item=item.id,
            model=model,
            passed=heard.error is None and not failed,
            failures=failed,
            prompt=prompts.readable(item),
            answer=heard.raw[:MAX_KEPT_CHARACTERS],
            calls=calls[:MAX_KEPT_CHARACTERS],
            finish_reason=heard.finish_reason,
            prompt_tokens=heard.prompt_tokens,
            tokens=heard.tokens,
            seconds=heard.seconds,
            ttft_s=heard.ttft_s,
            energy_j=heard.energy_j,
            answered_as=heard.answered_as,
            error=heard.error,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            suite_sha256=suite.sha256,
        )

    def _judge(self, model: str, heard: Heard) -> None:
        self._row[model] = self._row.get(model, 0) + 1 if heard.lasting else 0
        if heard.final:
            self._given_up[model] = f"an item before failed for good, with: {heard.error}"
        elif self._row[model] >= GIVE_UP_AFTER:
            self._given_up[model] = f"the {GIVE_UP_AFTER} items before failed, the last with: {heard.error}"


def body(suite: Suite, item: Item, model: str, plan: Plan) -> dict[str, Any]:
    """The request for an item, as every model gets it."""
    found: dict[str, Any] = {
        "model": model,
        "messages": messages(item, suite.language),
        "max_tokens": item.max_tokens + plan.extra_tokens,
        "temperature": plan.temperature,
        "seed": plan.seed,
    }
    offered = [tool for tool in suite.tools if tool.name in item.tools]
    if offered:
        found["tools"] = [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in offered]
    return found


def messages(item: Item, language: Language) -> list[dict[str, str]]:
    """What is said to the model, with the haystack in its place."""
    given: list[dict[str, str]] = [{"role": "system", "content": item.system}] if item.system else []
    if item.prompt is not None:
        given.append({"role": "user", "content": item.prompt.strip()})
    given += [{"role": message.role, "content": message.content.strip()} for message in item.messages or []]
    if item.haystack is not None:
        text = recall.text(item.haystack, language)
        given = [message | {"content": message["content"].replace("{haystack}", text)} for message in given]
    return given


def failed_load(exc: FoundryError) -> str:
    """The reason why a model is not asked at all."""
    return f"it could not be loaded: {exc.message}"

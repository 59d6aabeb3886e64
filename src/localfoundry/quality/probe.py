"""Next-token distributions and greedy answers of a loaded model, asked of the service as a user asks.

A position costs one request: its tokens as the prompt, one token out, with log-probabilities. Each is the one before
and a token more, so that the engine's prefix cache leaves a token or two to compute; the chunks of the text go beside
each other, as the engine takes several at once. Texts are never tokenized here: the reference holds token ids.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from localfoundry.client import ServiceClient
from localfoundry.errors import InvalidRequest, ServiceError
from localfoundry.quality.fidelity import Fidelity, Position, agreeing, compare, summary
from localfoundry.quality.reference import Continuation, Reference, Row

TOP = 64  # tokens asked for at each position
_CERTAIN = 100  # of the API's largest bias
_AT_ONCE = 4
T = TypeVar("T")


class NoLogprobs(Exception):
    """The engine does not give what is compared; the words say why."""


async def measure(
    client: ServiceClient, model: str, reference: Reference, every: int, told: Callable[[int, int], None]
) -> Fidelity:
    """Compare a model that is loaded with its reference, at each `every`th scored position.

    `told` gets the requests that are done and their number. Raises what the service reports.
    """
    rows = reference.rows(every)
    count = _Count(len(rows) + len(reference.greedy), told)
    gate = asyncio.Semaphore(_AT_ONCE)
    unavailable, positions = None, []
    try:
        positions = await _positions(client, model, reference, rows, gate, count)
    except NoLogprobs as exc:
        unavailable = str(exc)
    shares = await beside([_answer(client, model, wanted, gate, count) for wanted in reference.greedy])
    return summary(positions, shares, unavailable)


async def beside(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it at the same time; where one fails, the others end, and it is raised as it is, not in a group."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Count:
    def __init__(self, total: int, told: Callable[[int, int], None]) -> None:
        self._done, self._total, self._told = 0, total, told

    def one(self) -> None:
        self._done += 1
        self._told(self._done, self._total)


async def _positions(
    client: ServiceClient, model: str, reference: Reference, rows: Sequence[Row], gate: asyncio.Semaphore, count: _Count
) -> list[Position]:
    """All positions, chunk by chunk, several chunks at once. Raises NoLogprobs."""

    async def chunk(number: int) -> list[Position]:
        async with gate:
            return [await position(row) for row in rows if row.chunk == number]

    async def position(row: Row) -> Position:
        found = await top(client, model, reference.chunks[row.chunk][: row.position], row.target)
        count.one()
        return compare(row, found)

    found = await beside([chunk(number) for number in range(len(reference.chunks))])
    return [position for positions in found for position in positions]


async def top(
    client: ServiceClient, model: str, prompt: Sequence[int] | str, target: int | None = None
) -> dict[int, float]:
    """The likeliest next tokens with their log-probabilities, in the form of llama.cpp's server: with token ids.

    And `target` besides, where the engine tells the log-probability of the token that it takes, as if nobody had made
    it take that one (`logit_bias`). Raises NoLogprobs, and what the service reports.
    """
    try:
        answer = await _next(client, model, prompt, target)
    except InvalidRequest as exc:
        raise NoLogprobs(exc.message) from exc
    try:
        taken = answer["choices"][0]["logprobs"]["content"][0]
        found = {int(entry["id"]): float(entry["logprob"]) for entry in taken["top_logprobs"]}
        chosen, logprob = taken["id"], float(taken["logprob"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise NoLogprobs("its answers hold no log-probabilities by token id") from None
    if len(found) < TOP:
        raise NoLogprobs(f"it gives the log-probabilities of {len(found)} tokens, and {TOP} were asked for")
    if chosen == target and chosen not in found and logprob <= min(found.values()):
        found[chosen] = logprob
    return found


async def _next(client: ServiceClient, model: str, prompt: Sequence[int] | str, target: int | None) -> dict[str, Any]:
    if target is not None:
        with contextlib.suppress(InvalidRequest):
            return await _complete(client, model, prompt, 1, logprobs=TOP, logit_bias={str(target): _CERTAIN})
    return await _complete(client, model, prompt, 1, logprobs=TOP)


async def scores(client: ServiceClient, model: str, prompt: Sequence[int]) -> list[float]:
    """The log-probability of each token of a prompt but the first, from one request, where the engine scores prompts.

    Raises NoLogprobs, and what the service reports.
    """
    try:
        answer = await _complete(client, model, prompt, 0, logprobs=0, echo=True)
    except InvalidRequest as exc:
        raise NoLogprobs(exc.message) from exc
    try:
        first, *others = answer["choices"][0]["logprobs"]["content"]
        found = [float(entry["logprob"]) for entry in others]
        said = [int(entry["id"]) for entry in (first, *others)]
    except (KeyError, IndexError, TypeError, ValueError):
        raise NoLogprobs("its answer holds no log-probabilities of the prompt") from None
    if said != list(prompt):
        raise NoLogprobs(f"it scored {len(said)} tokens, which are not the {len(prompt)} that were asked for")
    return found


async def _answer(
    client: ServiceClient, model: str, wanted: Continuation, gate: asyncio.Semaphore, count: _Count
) -> float:
    """The share of an answer that agrees with the reference."""
    async with gate:
        answer = await _complete(client, model, wanted.prompt, len(wanted.tokens))
    count.one()
    try:
        text = answer["choices"][0]["text"]
    except (KeyError, IndexError, TypeError):
        raise ServiceError(f"{model} gave an answer without a text") from None
    return agreeing(wanted.text, text) / len(wanted.text)


async def _complete(
    client: ServiceClient, model: str, prompt: Sequence[int] | str, max_tokens: int, **more: object
) -> dict[str, Any]:
    said = prompt if isinstance(prompt, str) else list(prompt)
    body = {"model": model, "prompt": said, "max_tokens": max_tokens, "temperature": 0, **more}
    answer: dict[str, Any] = await client.post("/v1/completions", body)
    return answer

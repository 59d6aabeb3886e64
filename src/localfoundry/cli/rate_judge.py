"""A model votes: each pair in both orders, kept under `judge:NAME`, and going on where an earlier run of it ended."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.endpoint_options import key_of
from localfoundry.cli.pull import pull_model
from localfoundry.errors import ServiceError
from localfoundry.quality import judge
from localfoundry.quality.ratings import JUDGE, Answer, Pairing, item_key, vote
from localfoundry.results.db import Results, now

if TYPE_CHECKING:
    from localfoundry.config import Settings

_SEED = 42

Ask = Callable[[str], Awaitable[str]]


class Judge(msgspec.Struct, frozen=True):
    """A local model, or `model` behind `endpoint`. `key_env`: the variable with its API key, which is kept nowhere."""

    model: str
    endpoint: str | None = None
    key_env: str | None = None

    @property
    def rater(self) -> str:
        host = urlsplit(self.endpoint).hostname if self.endpoint else None
        return f"{JUDGE}{self.model}" + (f"@{host}" if host else "")


def decide(
    given: Settings, results: Results, run: str, one: Judge, pairings: Sequence[Pairing], criteria: Sequence[str],
    answers: Callable[[Pairing], tuple[Answer, Answer]],
) -> int:  # fmt: skip
    """Ask for every verdict that is not there yet, and return for how many no verdict came. Raises as the service does.

    `answers` gives the two of a pairing in the order of showing.
    """
    left = _unsaid(results, run, one, pairings, criteria)
    if not left:
        return 0
    silent = 0

    async def work() -> None:
        nonlocal silent
        async with _asking(given, one) as ask:
            for number, (pairing, criterion) in enumerate(left, 1):
                first, second = answers(pairing)
                mark = secrets.token_hex(8)
                said = await ask(judge.prompt(criterion, pairing.question.prompt, first.answer, second.answer, mark))
                choice = judge.choice(said, pairing)
                if choice is None:
                    silent += 1
                else:
                    results.add_vote(vote(run, pairing, one.rater, criterion, choice, now()))
                if output.shows_progress():
                    output.note(f"\r{number}/{len(left)} verdicts\x1b[K", end="")

    try:
        asyncio.run(work())
    finally:
        if output.shows_progress():
            output.note("\r\x1b[K", end="")
    return silent


def _unsaid(
    results: Results, run: str, one: Judge, pairings: Sequence[Pairing], criteria: Sequence[str]
) -> list[tuple[Pairing, str]]:
    """Each pair in both orders, by each criterion that a judge knows, as far as no verdict is kept."""
    done = {(v.suite, v.item, v.a, v.b, v.criterion, v.shown_first) for v in results.votes(run, rater=one.rater)}
    orders = [p for pairing in pairings for p in (pairing, msgspec.structs.replace(pairing, first=pairing.second))]
    return [
        (p, criterion)
        for p in orders
        for criterion in criteria
        if criterion in judge.CRITERIA
        and (p.question.suite, item_key(p.question), p.a, p.b, criterion, p.first) not in done
    ]


@contextlib.asynccontextmanager
async def _asking(given: Settings, one: Judge) -> AsyncIterator[Ask]:
    from localfoundry.chat.target import Target
    from localfoundry.cli.bench_local import target_of
    from localfoundry.quality.ask import Endpoint

    if one.endpoint is not None:
        key = key_of(one.key_env, urlsplit(one.endpoint).hostname or "", "judge-key-env") if one.key_env else ""
        place = Endpoint(Target(one.endpoint, secret=key))
    else:
        if context.cached(given, one.model) is None:
            await asyncio.to_thread(pull_model, given, one.model, quiet=True)
        state, _ = await asyncio.to_thread(instance.start, given)
        place = Endpoint(target_of(state))
    async with place:

        async def ask(prompt: str) -> str:
            body: dict[str, Any] = {
                "model": one.model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": judge.MAX_TOKENS,
                "temperature": 0,
                "seed": _SEED,
            }
            heard = await place.ask(body)
            if heard.error is not None and heard.lasting:
                raise ServiceError(f"the judge {one.model} cannot be asked: {heard.error}")
            return heard.reply.text

        yield ask

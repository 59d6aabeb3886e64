"""The requests of `soak.py`, each with what its answer must be.

Every answer is checked: status, every event, that it is whole and ends as it must, the number of tokens asked for (no
two neighbours ask for the same), the model that answered, and, where the fake engine can echo, a mark that only this
request carries. `Wrong` is an answer that must not be; `Refused` an error of the API, for the caller to judge.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from wire import Reply, Target, chat, send

Body = dict[str, Any]
_TOO_LONG = 9000  # words, and so at least tokens; models are loaded with a context of 8192
_LOOKS = ("/v1/models", "/foundry/list", "/foundry/ps", "/foundry/stats", "/metrics", "/openai/status", "/health")
_LEAVE_WITHIN_S = 1.5


class Wrong(Exception):
    """The answer is not what this request must get."""


class Refused(Exception):
    """The answer is an error of the API with this code, in place of an answer or inside a stream."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"{status} {code}")
        self.code = code


@dataclass
class Mix:
    """Who asks, and what for. `echoes`: the fake engine repeats the last word of the prompt."""

    target: Target
    draw: random.Random
    fakes: tuple[str, ...]
    slow: str
    real: str | None = None
    echoes: bool = False
    embeds: int = 400
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def post(self, path: str, body: Body) -> Reply:
        return await send(self.target, "POST", path, json.dumps(body).encode())

    def chat(self, model: str, tokens: int, *, stream: bool) -> tuple[Body, str]:
        """A request of its own, and the mark at its end."""
        mark = f"mark{next(self.numbers)}"
        text = f"{self.draw.getrandbits(40)} say a word about {mark}"
        return chat(model, [{"role": "user", "content": text}], tokens, stream=stream), mark

    def tokens(self, low: int, high: int) -> int:
        return low + next(self.numbers) % (high - low)

    async def probe(self) -> None:
        """Learn what this version's fake and real engines can do."""
        body, mark = self.chat(self.fakes[0], 2, stream=False)
        self.echoes = mark in json.dumps(good(await self.post("/v1/chat/completions", body)))
        if self.real is not None:
            self.embeds = (await self.post("/v1/embeddings", {"model": self.real, "input": "a word"})).status


def good(reply: Reply) -> Body:
    """The document of a whole answer with status 200. Raises Refused, Wrong."""
    if not reply.whole:
        raise Wrong(f"status {reply.status}, cut after {len(reply.body)} bytes")
    document = _json(reply.body)
    if reply.status != 200:
        raise Refused(_code(document), reply.status)
    if not isinstance(document, dict):
        raise Wrong(f"not an object: {reply.body[:200]!r}")
    return document


def streamed(reply: Reply) -> list[Body]:
    """The events of a stream that ended as it must. Raises Refused, Wrong."""
    if reply.status != 200:
        good(reply)
    if not reply.whole or not reply.body.endswith(b"data: [DONE]\n\n"):
        raise Wrong(f"a stream without its end: {reply.body[-200:]!r}")
    events = [event for event in reply.body.decode().split("\n\n") if event.startswith("data: ")]
    documents = [_json(event[6:]) for event in events[:-1]]
    for document in documents:
        if "error" in document:
            raise Refused(_code(document), 200)
    return documents


def _json(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Wrong(f"not JSON: {text[:200]!r}") from None


def _code(document: Any) -> str:
    try:
        return str(document["error"]["code"])
    except (KeyError, TypeError):
        raise Wrong(f"an error without a code: {document!r:.200}") from None


def _check(mix: Mix, model: str, mark: str, tokens: int, usage: Any, text: str, answered: str) -> None:
    if not isinstance(usage, dict) or usage.get("completion_tokens") != tokens:
        raise Wrong(f"asked {model} for {tokens} tokens, usage is {usage}")
    if model == mix.real:
        return
    if not answered.startswith(f"{model}:"):
        raise Wrong(f"asked {model}, answered by {answered}")
    expected = [mark if mix.echoes else model] * tokens
    if text.split() != expected:
        raise Wrong(f"asked {model} for {tokens} times {expected[0]}, got {len(text.split())} words: {text[:100]}")


async def plain(mix: Mix, model: str, low: int = 1, high: int = 24) -> None:
    tokens = mix.tokens(low, high)
    body, mark = mix.chat(model, tokens, stream=False)
    found = good(await mix.post("/v1/chat/completions", body))
    text = found["choices"][0]["message"]["content"] or ""
    _check(mix, model, mark, tokens, found.get("usage"), text, found["model"])


async def stream(mix: Mix, model: str, low: int = 1, high: int = 24) -> None:
    tokens = mix.tokens(low, high)
    body, mark = mix.chat(model, tokens, stream=True)
    events = streamed(await mix.post("/v1/chat/completions", body))
    deltas = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    _check(mix, model, mark, tokens, usage, "".join(deltas), events[-1]["model"])


async def long(mix: Mix, model: str) -> None:
    await stream(mix, model, 60, 120)


async def completion(mix: Mix, model: str) -> None:
    tokens = mix.tokens(1, 24)
    body = {"model": model, "prompt": "a word or two", "max_tokens": tokens, "ignore_eos": True}
    found = good(await mix.post("/v1/completions", body))
    if found["usage"]["completion_tokens"] != tokens:
        raise Wrong(f"asked for {tokens} tokens, usage is {found['usage']}")


async def leave(mix: Mix, model: str) -> None:
    """A client that goes away: before a word has come, or in the middle of the answer."""
    body, _ = mix.chat(model, 120, stream=mix.draw.random() < 0.7)
    data = json.dumps(body).encode()
    async with mix.target.connected() as (reader, writer):
        writer.write(mix.target.head("POST", "/v1/chat/completions", len(data)) + data)
        try:
            async with asyncio.timeout(mix.draw.uniform(0, _LEAVE_WITHIN_S)):
                heard = await reader.read(1000)
                if not heard:
                    raise Wrong("the connection ended without an answer")
                if not heard.startswith(b"HTTP/1.1 200"):
                    _, _, rest = heard.partition(b"\r\n\r\n")
                    raise Refused(_code(_json(rest)), int(heard.split(b" ")[1]))
                while await reader.read(1000):
                    pass
        except TimeoutError:
            return


async def wrong(mix: Mix, model: str) -> None:
    """Requests that cannot be answered, each with the error that says so."""
    asked: tuple[tuple[str, Body | bytes, str], ...] = (
        ("/v1/chat/completions", chat("no-such-model", [], 1, stream=False), "invalid_request"),
        ("/v1/chat/completions", mix.chat("no-such-model", 1, stream=False)[0], "model_not_found"),
        ("/v1/chat/completions", b'{"model": ', "invalid_request"),
        ("/v1/chat/completions", mix.chat(model, 1, stream=False)[0] | {"max_tokens": "many"}, "invalid_request"),
        ("/v1/completions", {"model": model, "prompt": "word " * _TOO_LONG}, "context_length_exceeded"),
    )
    path, body, code = mix.draw.choice(asked)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        good(await send(mix.target, "POST", path, data))
    except Refused as refused:
        if refused.code != code:
            raise
        return
    raise Wrong(f"{path} answered what it must refuse with {code}")


async def look(mix: Mix, _: str) -> None:
    path = mix.draw.choice(_LOOKS)
    reply = await send(mix.target, "GET", path)
    if reply.status != 200 or not reply.whole or not reply.body:
        raise Wrong(f"GET {path}: status {reply.status}, {len(reply.body)} bytes")


async def count(mix: Mix, model: str) -> None:
    body, _ = mix.chat(model, 1, stream=False)
    found = good(await mix.post("/v1/chat/completions/tokenizer/encode/count", body))
    if found["tokenCount"] < 1:
        raise Wrong(f"no tokens counted: {found}")


async def embed(mix: Mix, model: str) -> None:
    """The starter model has none and must say so, every time as the first time."""
    reply = await mix.post("/v1/embeddings", {"model": model, "input": "a word"})
    if reply.status != mix.embeds:
        good(reply)
        raise Wrong(f"embeddings: status {reply.status}, at first {mix.embeds}")


@dataclass(frozen=True)
class Kind:
    """One kind of request: how often, and which models it is for (`fake`, `slow`, `real`)."""

    name: str
    weight: int
    run: Callable[[Mix, str], Awaitable[None]]
    of: str


MIXED = (
    Kind("plain, fake", 20, plain, "fake"),
    Kind("streamed, fake", 20, stream, "fake"),
    Kind("plain, real", 8, plain, "real"),
    Kind("streamed, real", 8, stream, "real"),
    Kind("completion, real", 4, completion, "real"),
    Kind("long, streamed", 8, long, "slow"),
    Kind("leaves, fake", 5, leave, "slow"),
    Kind("leaves, real", 3, leave, "real"),
    Kind("must be refused", 8, wrong, "fake"),
    Kind("lists and figures", 10, look, "fake"),
    Kind("tokens counted", 4, count, "real"),
    Kind("embeddings", 2, embed, "real"),
)
SHORT = (Kind("plain, fake", 1, plain, "fake"), Kind("streamed, fake", 1, stream, "fake"))

"""Hands a request to a worker and its answer to the client, byte for byte, and stops the worker when the client goes.

Stopping is closing the connection to the worker. What a worker says is passed on as it is, with these exceptions: its
errors take the API's shape; an answer that breaks off, or stops coming, is closed properly, as an error object, or,
inside a stream, as an event after the last whole one; bytes that are not UTF-8 are replaced; and a plain answer is put
together from a stream (`assemble.py` says why).

A request is sent a second time where the client cannot notice: when the worker closed the connection without a byte of
an answer, and when requests that ran together filled the memory they share (`service/sharing.py`). Generating has no
effect but its answer.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time

import msgspec
from starlette.types import Receive, Scope, Send

from localfoundry.api import abilities, exchange, faults, sse, usage
from localfoundry.api.assemble import assemble
from localfoundry.api.exchange import Exchange
from localfoundry.api.faults import EngineSaid
from localfoundry.api.requests import Asked
from localfoundry.errors import ContextMemoryExhausted, EngineError, FoundryError
from localfoundry.service import upstream
from localfoundry.service.loading import LoadedModel
from localfoundry.service.service import Service

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_LARGEST_ANSWER = 256_000_000  # of a plain one, as the stream it is put together from
_DATA = b"data: {"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Forward:
    """An ASGI application that answers one request from a model's worker."""

    def __init__(self, service: Service, name: str, path: str, asked: Asked) -> None:
        self.service = service
        self.name = name
        self.path = path
        self.asked = asked
        self.started = False  # something of the answer has gone to the client
        self.done = False
        self.stopped = ""  # before its end: because the client went away, or the engine owes too long
        self.owed: float | None = None  # since when the engine owes its next words
        self.events = 0  # that have come: about one for each token, until the engine says how many there were

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.known = known = exchange.of(scope)
        self.send = send
        known.stream = self.asked.stream
        task = asyncio.current_task()
        assert task is not None
        watch = asyncio.create_task(_client_gone(receive))
        watch.add_done_callback(lambda _: self._stop(task, "cancelled"))
        self._look_later(task)
        try:
            await self._answer()
        except asyncio.CancelledError:
            if not self.stopped or task.uncancel() > 0:
                raise
            await self._stopped()
        finally:
            self.done = True
            watch.cancel()
            self.overdue.cancel()

    def _patience_s(self) -> float:
        settings = self.service.settings
        return settings.first_token_timeout_s if self.known.first is None else settings.stream_idle_timeout_s

    def _overdue(self) -> bool:
        return self.owed is not None and time.monotonic() - self.owed > self._patience_s()

    def _stop(self, task: asyncio.Task[object], why: str) -> None:
        if not self.done and not self.stopped:
            self.stopped = why
            task.cancel()

    def _look_later(self, task: asyncio.Task[object]) -> None:
        self.overdue = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look, task)

    def _look(self, task: asyncio.Task[object]) -> None:
        if self._overdue():
            self._stop(task, "overdue")
        else:
            self._look_later(task)

    async def _stopped(self) -> None:
        """What is left to do for an answer that was stopped half-way."""
        known = self.known
        if self.stopped == "cancelled":
            known.outcome = "cancelled"
            log.debug("request %s: the client went away: %s", known.request_id, self.path)
        else:
            await self._fail(faults.silent(known.model, self._patience_s(), started=known.first is not None))

    async def _answer(self) -> None:
        async with self.service.lease(self.name) as model:
            self.known.model = model.id
            self.rate = model.rate
            self.known.granted = time.monotonic()
            if self.asked.tools:
                await abilities.check_tools(model)
            if self.asked.echo:
                await abilities.check_echo(model)
            try:
                async with model.sharing.together():
                    await self._ask(model)
                return
            except ContextMemoryExhausted:
                self.owed = self.known.first = self.known.last = None
                log.info("request %s: repeated alone, %s had no memory for all", self.known.request_id, model.id)
            async with model.sharing.alone():
                await self._ask(model)

    async def _ask(self, model: LoadedModel) -> None:
        """Send the request, and hand on the answer. Raises what went wrong as long as the client has seen nothing."""
        self.owed = time.monotonic()
        try:
            response = await _sent(model, self.path, self.asked.body)
            try:
                if response.status != 200:
                    raise faults.of_body(response.status, await response.body(_LARGEST_ANSWER), model)
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    await self._plain(await response.body(_LARGEST_ANSWER))
                elif self.asked.stream:
                    await self._stream(response)
                else:
                    await self._assembled(response)
            finally:
                response.close()
        except upstream.UpstreamClosed:
            await self._fail(await faults.broken(model))
        except EngineSaid as said:
            await self._fail(faults.of_event(said, model))
        except FoundryError as error:
            await self._fail(error)

    async def _fail(self, error: FoundryError) -> None:
        """Raise, or end the stream with the error where one has begun."""
        if not self.started:
            raise error
        await self.send({"type": "http.response.body", "body": sse.closing(self.known.failed(error))})

    def _heard(self, events: bytes) -> bytes:
        """Note that the engine sent these; returns them as valid UTF-8."""
        self.owed = None
        self.known.last = now = time.monotonic()
        self.events += (count := events.count(_DATA))
        self.rate.add(count, now)
        if self.known.first is None:
            self.known.first = self.known.last
            events = events.removeprefix(sse.NOTHING)
        return events if events.isascii() else sse.valid_utf8(events)

    async def _stream(self, response: upstream.Response) -> None:
        told: collections.deque[bytes] = collections.deque(maxlen=self.asked.answers + 3)
        events = b""
        async for events in sse.whole_events(response.blocks()):
            if sse.is_comment(events):  # no word of the engine's, but clients wait longer where they hear something
                await self._send_events(events)
                continue
            events = self._heard(events)
            if self.asked.answers == 1 or b'"timings"' in events:  # of one answer the last few blocks tell
                told.append(events)
            good = sse.before_error(events)
            if good is not None:
                if good:
                    await self._send_events(good)
                raise sse.said_in(events)
            if self.asked.own_usage and events.endswith(sse.DONE):
                events = _with_usage(events, told, self.asked)
            if not events.endswith(sse.DONE):  # the end goes out with the end of the body, in one piece
                await self._send_events(events)
            self.owed = time.monotonic()
        if not events.endswith(sse.DONE):
            if self.started and not events.endswith(sse.END):
                await self._send_events(sse.END)
            raise EngineError("the engine ended its answer without saying that it was complete")
        counted = usage.of_events(told, self.asked.choices, self.asked.answers)
        if counted is not None:
            counted.note(self.known)
        self._correct_rate()
        await self._send_events(events, more=False)

    def _correct_rate(self) -> None:
        """An event is not a token: the rate is made right by the engine's own count."""
        if self.known.completion_tokens is not None:
            self.rate.add(self.known.completion_tokens - self.events, time.monotonic())

    async def _send_events(self, events: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            await self.send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        self.done = not more  # from here on a client that has gone is no reason to stop
        await self.send({"type": "http.response.body", "body": events, "more_body": more})

    async def _assembled(self, response: upstream.Response) -> None:
        """A plain answer out of a stream. Raises EngineSaid, EngineError."""
        parts: list[bytes] = []
        size = 0
        async for events in sse.whole_events(response.blocks()):
            if sse.is_comment(events):
                continue
            parts.append(self._heard(events))
            size += len(events)
            if size > _LARGEST_ANSWER:
                raise EngineError(f"the engine sent an answer of more than {_LARGEST_ANSWER} bytes")
            self.owed = time.monotonic()
        self.owed = None
        try:
            answer = assemble(b"".join(parts), self.asked.choices if self.asked.own_usage else None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError) as exc:
            raise EngineError(f"the engine of {self.known.model} sent what is not a completion: {exc}") from exc
        await self._plain(answer)

    async def _plain(self, body: bytes) -> None:
        self._heard(b"")
        _note_usage(self.known, body)
        self._correct_rate()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self.started = self.done = True
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


async def ask(model: LoadedModel, path: str, body: bytes, patience_s: float = 600) -> bytes:
    """One question to a leased model's worker, answered whole within `patience_s`. Raises as a forwarded request."""
    try:
        async with asyncio.timeout(patience_s):
            response = await _sent(model, path, body)
            try:
                answer = await response.body(_LARGEST_ANSWER)
            finally:
                response.close()
    except TimeoutError:
        raise faults.silent(model.id, patience_s, started=False) from None
    except upstream.UpstreamClosed:
        raise await faults.broken(model) from None
    if response.status != 200:
        raise faults.of_body(response.status, answer, model)
    return answer


async def _sent(model: LoadedModel, path: str, body: bytes) -> upstream.Response:
    """The beginning of an answer. Raises UpstreamClosed; a connection that ended without a word is made again once."""
    try:
        return await upstream.request(model.worker.endpoint, "POST", path, body)
    except upstream.UpstreamClosed as closed:
        if not closed.silent or model.worker.state != "ready":
            raise
    return await upstream.request(model.worker.endpoint, "POST", path, body)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Counted(msgspec.Struct):
    usage: dict[str, object] | None = None


def _note_usage(known: Exchange, body: bytes) -> None:
    try:
        told = msgspec.json.decode(body, type=_Counted).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if told is not None:
        usage.of_object(told).note(known)


def _with_usage(events: bytes, told: collections.deque[bytes], asked: Asked) -> bytes:
    """The end of a stream with the usage of all its choices before `[DONE]`, in an event like the last one."""
    last = next(iter(usage.decoded(reversed(told))), None)
    counted = usage.of_events(told, asked.choices, asked.answers)
    if last is None or counted is None:
        return events
    kept = {key: last[key] for key in ("id", "object", "created", "model", "system_fingerprint") if key in last}
    event = msgspec.json.encode(kept | {"choices": [], "usage": counted.to_openai()})
    return events[: -len(sse.DONE)] + b"data: " + event + sse.END + sse.DONE

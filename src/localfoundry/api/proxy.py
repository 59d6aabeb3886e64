"""Hands a request to a worker and its answer to the client, byte for byte, and stops the worker when the client goes.

Stopping is closing the connection to the worker. What a worker says is passed on as it is, with three exceptions: its
errors take the API's shape; an answer that breaks off is closed properly, as an error object, or, inside a stream, as
an event after the last whole one; and a plain answer is put together from a stream (`assemble.py` says why).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

import msgspec
from starlette.types import Receive, Scope, Send

from localfoundry.api.assemble import EngineEvent, assemble
from localfoundry.errors import (
    ContextLengthExceeded,
    EngineError,
    FoundryError,
    InvalidRequest,
    ServiceStopping,
    WorkerCrashed,
)
from localfoundry.service import upstream
from localfoundry.service.loading import LoadedModel
from localfoundry.service.service import Service

log = logging.getLogger(__name__)

_EVENT_END = b"\n\n"
_CRASH_WAIT_S = 0.5


class Forward:
    """An ASGI application that answers one request from a model's worker; `whole` turns a stream into one answer."""

    def __init__(self, service: Service, name: str, path: str, body: bytes, *, whole: bool = False) -> None:
        self.service = service
        self.name = name
        self.path = path
        self.body = body
        self.whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(_client_gone(receive))
        work = asyncio.create_task(self._answer(send))
        try:
            await asyncio.wait([watch, work], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                log.debug("client went away: %s", self.path)
                return
            await work
        finally:
            for task in (watch, work):
                task.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)

    async def _answer(self, send: Send) -> None:
        async with self.service.lease(self.name) as model:
            try:
                response = await upstream.request(model.worker.endpoint, "POST", self.path, self.body)
            except upstream.UpstreamClosed:
                raise await _crash(model) from None
            try:
                if response.status != 200:
                    raise _translated(response.status, await _whole(response, model), model)
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    await _plain(await _whole(response, model), send)
                elif self.whole:
                    await _plain(_assembled(await _whole(response, model), model), send)
                else:
                    await _stream(response, model, send)
            finally:
                response.close()


async def ask(model: LoadedModel, path: str, body: bytes) -> bytes:
    """One question to a leased model's worker, answered whole. Raises as a forwarded request would."""
    try:
        response = await upstream.request(model.worker.endpoint, "POST", path, body)
    except upstream.UpstreamClosed:
        raise await _crash(model) from None
    try:
        answer = await _whole(response, model)
    finally:
        response.close()
    if response.status != 200:
        raise _translated(response.status, answer, model)
    return answer


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _plain(body: bytes, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(response: upstream.Response, model: LoadedModel, send: Send) -> None:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        async for events in whole_events(response.blocks()):
            await send({"type": "http.response.body", "body": events, "more_body": True})
        last = b""
    except upstream.UpstreamClosed:
        error = await _crash(model)
        last = b"data: " + json.dumps(error.to_openai()).encode() + b"\n\ndata: [DONE]\n\n"
    await send({"type": "http.response.body", "body": last})


async def whole_events(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks cut at event boundaries, so that a stream which breaks off never ends inside an event."""
    rest = b""
    async for block in blocks:
        if rest:
            block = rest + block
            rest = b""
        if not block.endswith(_EVENT_END):  # rare: engines write whole events
            end = block.rfind(_EVENT_END) + 1
            end = end + 1 if end else 0
            block, rest = block[:end], block[end:]
        if block:
            yield block
    if rest:
        yield rest


async def _whole(response: upstream.Response, model: LoadedModel) -> bytes:
    try:
        return await response.body()
    except upstream.UpstreamClosed:
        raise await _crash(model) from None


def _assembled(stream: bytes, model: LoadedModel) -> bytes:
    try:
        return assemble(stream)
    except EngineEvent as event:
        status = event.error.get("code") if isinstance(event.error, dict) else None
        body = msgspec.json.encode({"error": event.error})
        raise _translated(status if isinstance(status, int) else 500, body, model) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise EngineError(f"the engine of {model.id} sent what is not a completion: {exc}") from exc


async def _crash(model: LoadedModel) -> FoundryError:
    """The error for a connection that broke, after giving the process a moment to be seen as ended."""
    if model.worker.state == "stopping":  # with an answer in flight only when the time to drain is over
        return ServiceStopping("the service stopped before the answer was complete", hint="foundry service start")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CRASH_WAIT_S):
            await asyncio.shield(model.worker.exited)
    if model.worker.exited.done():
        what = f"the worker of {model.id} ended while it was answering"
    else:
        what = f"the worker of {model.id} broke off its answer"
    return WorkerCrashed(what, hint="send the request again; `foundry service logs` has the worker's own words")


def _translated(status: int, body: bytes, model: LoadedModel) -> FoundryError:
    """An engine's error in our tree; its words are kept."""
    try:
        error = json.loads(body)["error"]
        message, kind = str(error["message"]), str(error.get("type"))
    except (ValueError, KeyError, TypeError):
        return EngineError(f"the engine of {model.id} answered with status {status} and no reason")
    if kind == "exceed_context_size_error":
        return ContextLengthExceeded(
            int(error["n_prompt_tokens"]), int(error["n_ctx"]), model.manifest.alias, model.manifest.context_length
        )
    if status < 500 or status == 501:
        return InvalidRequest(message)
    return EngineError(message)

"""One client connection, with bounds on what it may send, how slowly, and how slowly it may read.

uvicorn's own protocol reads a head of any size over any time, and keeps an unsent answer for as long as the client
keeps its connection (its `h11_max_incomplete_event_size` is for another parser). Trade-off: this builds on a class of
uvicorn's that is not documented; tests/api/test_limits.py would notice a change of it. That writing waits for a client
that does not read is uvicorn's own doing (`flow.drain` in `send`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from localfoundry.errors import (
    FoundryError,
    HeadTooLarge,
    InvalidRequest,
    RequestTooSlow,
    TooManyConnections,
)

log = logging.getLogger(__name__)

_LARGEST_HEAD = 65536  # request line and headers; also trailers and the extensions of chunks
_MOST_HEADERS = 200


@dataclass(frozen=True, slots=True)
class Bounds:
    """From the settings: seconds for a whole request to arrive and for a reader that takes nothing; connections."""

    request_s: float
    slow_reader_s: float
    connections: int


class Corked:
    """A transport that sends the head of an answer together with what follows it: one system call instead of two.

    Only a head is held, and at most until the loop turns: an event is written when it comes.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/1.1 200"):
            self._held = data
            self._loop.call_soon(self._let_go)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def _let_go(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""


class Connection(HttpToolsProtocol):
    """See the module. Made by uvicorn, one for each connection."""

    def __init__(self, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._without_body = 0  # bytes since the last byte of a body or the end of a request
        self._head = 0  # bytes of the request line and headers that the parser has handed over
        self._arrived = True  # the whole of the last request that began
        self._in_head = False
        self._arrival: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._refusal: FoundryError | None = None

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport: Any = Corked(transport, self.loop)
        self._wait_for_request()
        if len(self.connections) > self._bounds.connections:
            message = f"{self._bounds.connections} connections are open"
            self._refuse(TooManyConnections(message, hint="setting maxConnections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._reader is not None:
            self._reader.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._without_body += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._without_body > _LARGEST_HEAD:
            self._refuse(_too_large())
        elif self._without_body or not self._arrived:
            self._wait_for_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        super().resume_writing()

    # What the parser tells. An exception here ends in `send_400_response`.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arrived = False
        self._in_head = True
        self._head = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._without_body = 0
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._without_body = 0
        self._arrived = True
        self._stop_waiting()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > _LARGEST_HEAD or len(self.headers) >= _MOST_HEADERS:
            self._refusal = _too_large()
            raise self._refusal

    # What is done about it

    def _wait_for_request(self) -> None:
        if self._arrival is None:
            self._arrival = self.loop.call_later(self._bounds.request_s, self._late)

    def _stop_waiting(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _late(self) -> None:
        self._arrival = None
        if not self.transport.is_closing():
            message = f"the request did not arrive within {self._bounds.request_s:.0f} s"
            self._refuse(RequestTooSlow(message, hint="setting requestTimeoutSeconds"))

    def _watch_reader(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self._bounds.slow_reader_s, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_reader()
            return
        log.info("a client took nothing of its answer for %.0f s and was disconnected", self._bounds.slow_reader_s)
        self.transport.abort()  # closing would wait for the reader

    def _refuse(self, error: FoundryError) -> None:
        """Say why, where that cannot be taken for a part of another answer, and close."""
        if self._may_speak():
            self.transport.write(_answer(error))
            self.transport.close()
        else:
            self.transport.abort()

    def _may_speak(self) -> bool:
        if self.cycle is None or self.pipeline:
            return not self.pipeline
        return not self.cycle.response_started or (self.cycle.response_complete and self._in_head)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is not HTTP, in the shape of every other error."""
        self._refuse(self._refusal or InvalidRequest("this is not an HTTP/1.1 request"))


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head of the request has more than {_LARGEST_HEAD} bytes or {_MOST_HEADERS} headers")


def _answer(error: FoundryError) -> bytes:
    body = json.dumps(error.to_openai()).encode()
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[error.status] + head + body

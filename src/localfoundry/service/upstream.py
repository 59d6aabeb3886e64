"""HTTP/1.1 from the service to a worker: one fresh connection per request, bytes handed on as they arrive.

Our own code and not an HTTP client, for two reasons that were measured. This is the path of every token: httpx2 costs
175 µs of CPU per streamed chunk on the development machine, aiohttp 62 µs (and 0.3 s of start-up), this 56 µs. And
engines close kept-alive connections on their own, which a pooled client shows its user as "server disconnected without
sending a response"; a fresh connection to a Unix socket takes about 0.1 ms and cannot be stale. The parser is
httptools, the one the server side uses as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import httptools

from localfoundry.engines.base import Endpoint

_MOST_PENDING = 1_000_000  # bytes that wait for whoever reads the answer; then the worker has to wait
_LARGEST_HEAD = 65536  # of an answer: status line and headers
_CONNECT_S = 5.0
_QUEUE_FULL_S = 0.005


class UpstreamClosed(Exception):
    """The worker's connection ended, or broke the protocol, before the answer was complete. Never shown to a user.

    `silent`: not a byte of an answer had come, so asking again cannot give anyone anything twice.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Response(asyncio.Protocol):
    """Status and headers of an answer whose body is still to be read. `close` ends the request at the worker.

    A protocol and not a pair of streams: a token then costs one callback, one parse and one wake-up.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._headers_done = False
        self._head_bytes = 0
        self._complete = False
        self._broken: UpstreamClosed | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)

    # Called by the transport.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if not self._headers_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._break(UpstreamClosed(str(exc)))
        if not self._headers_done and self._head_bytes > _LARGEST_HEAD:
            self._break(UpstreamClosed(f"the head of the worker's answer is larger than {_LARGEST_HEAD} bytes"))
        if self._pending_bytes > _MOST_PENDING and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        silent = not self._head_bytes
        self._break(UpstreamClosed(str(exc) if exc else "the worker closed the connection", silent=silent))

    # Called by the parser.
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        self._pending.append(body)
        self._pending_bytes += len(body)

    def on_message_complete(self) -> None:
        self._complete = True

    def _break(self, error: UpstreamClosed) -> None:
        if self._broken is None:
            self._broken = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        """Return when something has come. Raises UpstreamClosed where nothing can come any more."""
        if self._broken is not None:
            raise self._broken
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def start(self) -> None:
        """Read up to the end of the headers. Raises UpstreamClosed, also for a head without end."""
        while not self._headers_done:
            await self._more()

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body in the pieces in which it arrives. Raises UpstreamClosed when it ends before it is complete."""
        while True:
            if self._pending:
                block = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
                self._pending.clear()
                if self._pending_bytes > _MOST_PENDING and self._transport is not None:
                    self._transport.resume_reading()
                self._pending_bytes = 0
                yield block
            elif self._complete:
                return
            else:
                await self._more()

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamClosed, also for more than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        async for block in self.blocks():
            parts.append(block)
            size += len(block)
            if size > limit:
                raise UpstreamClosed(f"the worker's answer is larger than {limit} bytes")
        return b"".join(parts)

    def send(self, data: bytes) -> None:
        """Write to the worker."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Drop the connection; a worker that is still generating notices and stops."""
        if self._transport is not None:
            self._transport.abort()


async def request(endpoint: Endpoint, method: str, path: str, body: bytes = b"") -> Response:
    """Send a request to a worker and read the answer's headers. Raises UpstreamClosed where that fails."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            response = await _connected(endpoint)
    except (OSError, TimeoutError) as exc:
        raise UpstreamClosed(str(exc) or f"no connection within {_CONNECT_S:.0f} s", silent=True) from exc
    head = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    if body:
        head += "Content-Type: application/json\r\n"
    if endpoint.secret:
        head += f"Authorization: Bearer {endpoint.secret}\r\n"
    try:
        response.send(head.encode("latin-1") + b"\r\n" + body)
        await response.start()
    except BaseException:
        response.close()
        raise
    return response


async def _connected(endpoint: Endpoint) -> Response:
    loop = asyncio.get_running_loop()
    while True:
        try:
            if endpoint.path:
                return (await loop.create_unix_connection(Response, endpoint.path))[1]
            return (await loop.create_connection(Response, "127.0.0.1", endpoint.port))[1]
        except BlockingIOError:  # a Unix socket whose queue is full says so at once; llama.cpp's holds five
            await asyncio.sleep(_QUEUE_FULL_S)

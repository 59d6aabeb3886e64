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

import httptools

from localfoundry.engines.base import Endpoint

_READ_SIZE = 65536
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


class Response:
    """Status and headers of an answer whose body is still to be read. `close` ends the request at the worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._pending: list[bytes] = []
        self._headers_done = False
        self._head_bytes = 0
        self._complete = False
        self._parser = httptools.HttpResponseParser(self)

    # Called by the parser.
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        self._pending.append(body)

    def on_message_complete(self) -> None:
        self._complete = True

    async def _feed(self) -> None:
        try:
            data = await self._reader.read(_READ_SIZE)
            if not self._headers_done:
                self._head_bytes += len(data)
            if not data:
                raise UpstreamClosed("the worker closed the connection", silent=not self._head_bytes)
            self._parser.feed_data(data)
        except OSError as exc:
            raise UpstreamClosed(str(exc), silent=not self._head_bytes) from exc
        except httptools.HttpParserError as exc:
            raise UpstreamClosed(str(exc)) from exc

    async def start(self) -> None:
        """Read up to the end of the headers. Raises UpstreamClosed, also for a head without end."""
        while not self._headers_done:
            await self._feed()
            if not self._headers_done and self._head_bytes > _LARGEST_HEAD:
                raise UpstreamClosed(f"the head of the worker's answer is larger than {_LARGEST_HEAD} bytes")

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body in the pieces in which it arrives. Raises UpstreamClosed when it ends before it is complete."""
        while True:
            if self._pending:
                block = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
                self._pending.clear()
                yield block
            if self._complete:
                return
            try:
                await self._feed()
            except UpstreamClosed:
                if self._pending:  # whole pieces that came in the same read as the break
                    yield b"".join(self._pending)
                raise

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

    def close(self) -> None:
        """Drop the connection; a worker that is still generating notices and stops."""
        self._writer.transport.abort()


async def request(endpoint: Endpoint, method: str, path: str, body: bytes = b"") -> Response:
    """Send a request to a worker and read the answer's headers. Raises UpstreamClosed where that fails."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await _connected(endpoint)
    except (OSError, TimeoutError) as exc:
        raise UpstreamClosed(str(exc) or f"no connection within {_CONNECT_S:.0f} s", silent=True) from exc
    head = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    if body:
        head += "Content-Type: application/json\r\n"
    if endpoint.secret:
        head += f"Authorization: Bearer {endpoint.secret}\r\n"
    response = Response(reader, writer)
    try:
        writer.write(head.encode("latin-1") + b"\r\n" + body)
        await response.start()
    except BaseException:
        response.close()
        raise
    return response


async def _connected(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            if endpoint.path:
                return await asyncio.open_unix_connection(endpoint.path, limit=_READ_SIZE)
            return await asyncio.open_connection("127.0.0.1", endpoint.port, limit=_READ_SIZE)
        except BlockingIOError:  # a Unix socket whose queue is full says so at once; llama.cpp's holds five
            await asyncio.sleep(_QUEUE_FULL_S)

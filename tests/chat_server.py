"""A chat server in the test's own event loop, without an HTTP library between: each byte, and when it goes, is ours.

`ChatServer` reads requests; what is answered is a subclass's: by a token clock (`bench/clock_server.py`) or by what was
asked (`quality/answering_server.py`).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """`connection` and `number` count from 1: which connection it came by, and which one of that it is."""

    line: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    number: int


class ChatServer:
    """Listens on a free port of the loopback while it is `running`. `answer` is for subclasses."""

    def __init__(self) -> None:
        self.url = ""
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answer(self, writer: asyncio.StreamWriter, request: Request) -> None:
        """Write a whole answer. A ConnectionError closes the connection."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        connection, number = self._connections, 0
        try:
            while True:
                number += 1
                await self.answer(writer, await _request(reader, connection, number))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def _request(reader: asyncio.StreamReader, connection: int, number: int) -> Request:
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in lines)}
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    assert isinstance(body, dict)
    return Request(line, headers, body, connection, number)


def refuse(writer: asyncio.StreamWriter, status: int, text: str, **headers: str) -> None:
    """An answer in one piece that is no success, or no chat; underscores in names of headers are hyphens."""
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    data = text.encode()
    writer.write(f"HTTP/1.1 {status} No\r\n{told}content-length: {len(data)}\r\n\r\n".encode() + data)


def begin(writer: asyncio.StreamWriter) -> None:
    """The head of a stream."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")


def event(writer: asyncio.StreamWriter, payload: dict[str, Any]) -> None:
    raw(writer, b"data: " + json.dumps(payload).encode() + b"\n\n")


def delta(writer: asyncio.StreamWriter, finish_reason: str | None = None, **fields: object) -> None:
    """An event with a part of the answer."""
    event(writer, {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


def raw(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One chunk of the transfer, whatever is in it."""
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def end(writer: asyncio.StreamWriter) -> None:
    """The end of the transfer."""
    writer.write(b"0\r\n\r\n")

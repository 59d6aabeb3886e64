"""A chat server whose answers are a function of the request, for runs of suites: what to say, call, refuse or break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Say:
    """One answer. `hang`: after the text nothing more comes; `cut`: the connection is dropped after it."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    status: int = 200
    retry_after: str | None = None
    error: str | None = None
    hang: bool = False
    cut: bool = False
    usage: bool = True


class AnsweringServer:
    def __init__(self, answer: Callable[[dict[str, Any]], Say]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AnsweringServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(int(h[15:]) for h in head.lower().split("\r\n") if h.startswith("content-length:"))
                body = json.loads(await reader.readexactly(length))
                self.bodies.append(body)
                self.headers.append(head)
                await self._say(writer, self.answer(body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, say: Say) -> None:
        if say.status != 200:
            text = json.dumps({"error": {"message": say.error or "no", "code": "refused"}})
            later = f"retry-after: {say.retry_after}\r\n" if say.retry_after else ""
            writer.write(f"HTTP/1.1 {say.status} No\r\n{later}content-length: {len(text)}\r\n\r\n{text}".encode())
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if say.reasoning:
            _event(writer, _delta(reasoning_content=say.reasoning))
        for start in range(0, len(say.text), 7):
            _event(writer, _delta(content=say.text[start : start + 7]))
        for index, (name, arguments) in enumerate(say.calls):
            _event(writer, _delta(tool_calls=[{"index": index, "id": f"c{index}", "function": {"name": name}}]))
            for part in (arguments[:3], arguments[3:]):
                _event(writer, _delta(tool_calls=[{"index": index, "function": {"arguments": part}}]))
        await writer.drain()
        if say.hang:
            await asyncio.Event().wait()
        if say.cut:
            writer.transport.abort()
            raise ConnectionResetError
        if say.error:
            _event(writer, {"error": {"message": say.error}})
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if say.usage:
            _event(writer, {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}})
        _raw(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _delta(**delta: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def _event(writer: asyncio.StreamWriter, payload: dict[str, Any]) -> None:
    _raw(writer, b"data: " + json.dumps(payload).encode() + b"\n\n")


def _raw(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

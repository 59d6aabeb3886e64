"""A chat server with a known token clock: what each model does is a script, and when it did it is written down.

It runs in the test's own event loop and on the same monotonic clock as the bench, so that both sides' stamps can be
compared. Models are scripts by name; an unknown one is a 404 with OpenAI's error object.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Script:
    """How one model answers: `tokens` in chunks of `tokens_per_chunk`, the first after `ttft_s`, then every `gap_s`."""

    tokens: int = 6
    tokens_per_chunk: int = 1
    reasoning_chunks: int = 0
    ttft_s: float = 0.0
    gap_s: float = 0.0
    prompt_tokens: int = 40
    cached_tokens: int | None = None
    timings: dict[str, float] | None = None
    usage: bool = True
    status: int = 200
    cut_after: int | None = None  # chunks, then the connection is dropped
    end_after: int | None = None  # chunks, then the stream ends in good order but without finish reason or [DONE]
    error_after: int | None = None  # chunks, then an error object as an event
    garbage_after: int | None = None
    hang_after: int | None = None
    fails_after: int | None = None  # requests, then each is a 500
    stall_after: int | None = None  # chunks, then nothing for `stall_s`
    stall_s: float = 0.0
    stall_every: int = 1  # only each so manieth request stalls
    slots: int | None = None  # requests answered at once; more wait
    drops: str = ""  # "kept": every second request of a connection, unanswered; "all": every request


@dataclass(eq=False)
class Record:
    """What the server saw and did for one request; times from time.perf_counter."""

    body: dict[str, Any]
    received: float
    writes: list[float] = field(default_factory=list)
    connection: int = 0
    authorization: str = ""


class ClockServer:
    def __init__(self, scripts: dict[str, Script]) -> None:
        self.scripts = scripts
        self.records: list[Record] = []
        self.started = asyncio.Event()  # a chunk was written
        self.url = ""
        self.says = ""  # added to the words of a refusal
        self.dropped = 0
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = {name: asyncio.Semaphore(script.slots) for name, script in scripts.items() if script.slots}

    def of(self, model: str) -> list[Record]:
        return [record for record in self.records if record.body["model"] == model]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ClockServer]:
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
        self._connections += 1
        connection = self._connections
        try:
            served = 0
            while body := await self._request(reader):
                drops = self.scripts.get(body["model"], Script()).drops
                served += 1
                if drops == "all" or (drops == "kept" and served % 2 == 0):
                    self.dropped += 1
                    return
                record = Record(body, time.perf_counter(), connection=connection, authorization=self._authorization)
                self.records.append(record)
                async with self._slots.get(body["model"], contextlib.nullcontext()):
                    await self._answer(writer, record)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> dict[str, Any] | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        except asyncio.IncompleteReadError:
            return None
        assert head.startswith("post /v1/chat/completions http/1.1\r\n"), head
        self._authorization = next((line[15:] for line in head.split("\r\n") if line.startswith("authorization: ")), "")
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        body = json.loads(await reader.readexactly(length))
        assert isinstance(body, dict)
        return body

    async def _answer(self, writer: asyncio.StreamWriter, record: Record) -> None:
        script = self.scripts.get(record.body["model"])
        if (
            script is not None
            and script.fails_after is not None
            and len(self.of(record.body["model"])) > script.fails_after
        ):
            script = dataclasses.replace(script, status=500)
        if script is None or script.status != 200:
            status = 404 if script is None else script.status
            said = f"no model {record.body['model']} {self.says}".strip()
            text = json.dumps({"error": {"message": said, "code": "model_not_found"}})
            writer.write(f"HTTP/1.1 {status} Refused\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        _event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
        if await self._tokens(writer, script, record):
            self._ending(writer, script)
        await writer.drain()

    async def _tokens(self, writer: asyncio.StreamWriter, script: Script, record: Record) -> bool:
        """Write all chunks of text; False where the script ends the stream before its end."""
        left, chunk = script.tokens, 0
        while left > 0:
            await asyncio.sleep(script.gap_s if chunk else script.ttft_s)
            name = "reasoning_content" if chunk < script.reasoning_chunks else "content"
            count = min(script.tokens_per_chunk, left)
            record.writes.append(time.perf_counter())
            _event(writer, {"choices": [{"index": 0, "delta": {name: "word " * count}}]})
            await writer.drain()
            self.started.set()
            left, chunk = left - count, chunk + 1
            if chunk == script.stall_after and self.records.index(record) % script.stall_every == 0:
                await asyncio.sleep(script.stall_s)
            if chunk == script.cut_after:
                writer.transport.abort()
                raise ConnectionResetError
            if chunk == script.end_after:
                writer.write(b"0\r\n\r\n")
                return False
            if chunk == script.error_after:
                _event(writer, {"error": {"message": "the worker ended", "code": "worker_crashed"}})
                writer.write(b"0\r\n\r\n")
                return False
            if chunk == script.garbage_after:
                _raw(writer, b"data: {not json\n\n")
            if chunk == script.hang_after:
                await asyncio.Event().wait()
        return True

    def _ending(self, writer: asyncio.StreamWriter, script: Script) -> None:
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        last: dict[str, Any] = {"choices": []}
        if script.usage:
            last["usage"] = {"prompt_tokens": script.prompt_tokens, "completion_tokens": script.tokens}
            if script.cached_tokens is not None:
                last["usage"]["prompt_tokens_details"] = {"cached_tokens": script.cached_tokens}
        if script.timings is not None:
            last["timings"] = script.timings
        _event(writer, last)
        _raw(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def _event(writer: asyncio.StreamWriter, payload: dict[str, Any]) -> None:
    _raw(writer, b"data: " + json.dumps(payload).encode() + b"\n\n")


def _raw(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

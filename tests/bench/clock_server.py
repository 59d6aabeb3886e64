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
from dataclasses import dataclass, field
from typing import Any

from chat_server import ChatServer, Request, begin, end, event, raw, refuse


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


class ClockServer(ChatServer):
    def __init__(self, scripts: dict[str, Script]) -> None:
        super().__init__()
        self.scripts = scripts
        self.records: list[Record] = []
        self.started = asyncio.Event()  # a chunk was written
        self.says = ""  # added to the words of a refusal
        self.dropped = 0
        self._slots = {name: asyncio.Semaphore(script.slots) for name, script in scripts.items() if script.slots}

    def of(self, model: str) -> list[Record]:
        return [record for record in self.records if record.body["model"] == model]

    async def answer(self, writer: asyncio.StreamWriter, request: Request) -> None:
        assert request.line == "POST /v1/chat/completions HTTP/1.1", request.line
        drops = self.scripts.get(request.body["model"], Script()).drops
        if drops == "all" or (drops == "kept" and request.number % 2 == 0):
            self.dropped += 1
            raise ConnectionResetError
        record = Record(
            request.body, time.perf_counter(), connection=request.connection,
            authorization=request.headers.get("authorization", ""),
        )  # fmt: skip
        self.records.append(record)
        async with self._slots.get(request.body["model"], contextlib.nullcontext()):
            await self._answer(writer, record)

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
            refuse(writer, status, text)
            await writer.drain()
            return
        begin(writer)
        event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
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
            event(writer, {"choices": [{"index": 0, "delta": {name: "word " * count}}]})
            await writer.drain()
            self.started.set()
            left, chunk = left - count, chunk + 1
            if chunk == script.stall_after and self.records.index(record) % script.stall_every == 0:
                await asyncio.sleep(script.stall_s)
            if chunk == script.cut_after:
                writer.transport.abort()
                raise ConnectionResetError
            if chunk == script.end_after:
                end(writer)
                return False
            if chunk == script.error_after:
                event(writer, {"error": {"message": "the worker ended", "code": "worker_crashed"}})
                end(writer)
                return False
            if chunk == script.garbage_after:
                raw(writer, b"data: {not json\n\n")
            if chunk == script.hang_after:
                await asyncio.Event().wait()
        return True

    def _ending(self, writer: asyncio.StreamWriter, script: Script) -> None:
        event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        last: dict[str, Any] = {"choices": []}
        if script.usage:
            last["usage"] = {"prompt_tokens": script.prompt_tokens, "completion_tokens": script.tokens}
            if script.cached_tokens is not None:
                last["usage"]["prompt_tokens_details"] = {"cached_tokens": script.cached_tokens}
        if script.timings is not None:
            last["timings"] = script.timings
        event(writer, last)
        raw(writer, b"data: [DONE]\n\n")
        end(writer)

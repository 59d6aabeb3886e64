"""HTTP/1.1 over raw asyncio streams: a client that costs little, and one that notices everything.

`ask` times one streamed chat; a full HTTP client would cost more than the differences that are looked for, so it does
no more than find the first token and the end. `send` returns any answer with its body, and whether that came whole.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rig import BenchmarkFailed

REQUEST_TIMEOUT_S = 300

_TOKEN = re.compile(rb'"(?:content|reasoning_content)":\s*"[^"]')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')
_DONE = b"data: [DONE]"
_TAIL_BYTES = 4096  # the usage and the end of a stream are within so many

Message = dict[str, str]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Target:
    """Where a request goes: a Unix socket, or a host and port."""

    socket: str | None = None
    host: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def of(cls, address: str) -> Target:
        """From `http://host:port`, `host:port` or the path of a socket."""
        if "://" not in address and not re.fullmatch(r"[^/\\]+:\d+", address):
            return cls(socket=address)
        parts = urlsplit(address if "://" in address else f"http://{address}")
        return cls(host=parts.hostname or "127.0.0.1", port=parts.port or 80)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        if self.socket is not None:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    def head(self, method: str, path: str, length: int) -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()


@dataclass(frozen=True)
class Answer:
    """One streamed answer. Both times count from the moment the request was written, on an open connection."""

    ttft_s: float
    wall_s: float
    tokens: int
    prompt_tokens: int = 0


async def ask(target: Target, model: str, prompt: str | Sequence[Message], max_tokens: int) -> Answer:
    """A chat completion of exactly `max_tokens` tokens where the engine knows `ignore_eos`."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    body = json.dumps(chat(model, messages, max_tokens, stream=True) | {"temperature": 0, "seed": 42}).encode()
    async with target.connected() as (reader, writer), asyncio.timeout(REQUEST_TIMEOUT_S):
        began = time.perf_counter()
        writer.write(target.head("POST", "/v1/chat/completions", len(body)) + body)
        return await _timed(reader, began)


def chat(model: str, messages: Sequence[Message], max_tokens: int, *, stream: bool) -> dict[str, Any]:
    """The body of a chat request whose answer has `max_tokens` tokens."""
    body = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "ignore_eos": True}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


async def _timed(reader: asyncio.StreamReader, began: float) -> Answer:
    heard = b""  # all of it up to the first token, then the end of it
    first: float | None = None
    good = False
    while _DONE not in heard[-_TAIL_BYTES:]:
        piece = await reader.read(65536)
        if not piece:
            break
        if first is None:
            heard += piece
            good = heard.startswith(b"HTTP/1.1 200")
            if _TOKEN.search(heard):
                first = time.perf_counter()
        else:
            heard = heard[-_TAIL_BYTES:] + piece
    done = time.perf_counter()
    counts = _COMPLETION_TOKENS.findall(heard)
    if not good or first is None or not counts:
        raise BenchmarkFailed(f"not a streamed answer with usage: {heard[:2000]!r}")
    of_prompt = _PROMPT_TOKENS.findall(heard)
    return Answer(first - began, done - began, int(counts[-1]), int(of_prompt[-1]) if of_prompt else 0)


@dataclass(frozen=True)
class Reply:
    """An answer of any status. `whole`: it came to its end as HTTP announced it. Times from writing the request."""

    status: int
    body: bytes
    whole: bool
    first_s: float
    wall_s: float


async def send(target: Target, method: str, path: str, body: bytes = b"") -> Reply:
    """One request and all that comes back until the connection ends. Raises OSError, BenchmarkFailed for no answer."""
    async with target.connected() as (reader, writer):
        began = time.perf_counter()
        writer.write(target.head(method, path, len(body)) + body)
        pieces = [await reader.read(65536)]
        first = time.perf_counter()
        while pieces[-1]:
            pieces.append(await reader.read(65536))
        wall = time.perf_counter() - began
    head, separator, payload = b"".join(pieces).partition(b"\r\n\r\n")
    if not separator:
        raise BenchmarkFailed(f"the connection ended without an answer: {head[:200]!r}")
    lines = head.decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if headers.get("transfer-encoding") == "chunked":
        payload, whole = _dechunked(payload)
    else:
        whole = len(payload) == int(headers.get("content-length", len(payload)))
    return Reply(int(lines[0].split(" ")[1]), payload, whole, first - began, wall)


def _dechunked(payload: bytes) -> tuple[bytes, bool]:
    """The content of a chunked body, and whether its last chunk has come."""
    parts: list[bytes] = []
    at = 0
    while (end := payload.find(b"\r\n", at)) >= 0:
        size = int(payload[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts), True
        parts.append(payload[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts), False

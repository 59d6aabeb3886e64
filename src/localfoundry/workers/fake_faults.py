"""Faults of the fake engine's connection: what a broken server, or a dying one, does to whoever asks it.

close_first_connections  so many first requests are closed without an answer
status_500               an answer of status 500 with this text as its reason
garbage                  an answer that is not HTTP: not_http, chunk_size, content_length, large_header,
                         endless_headers, half_head
half_close_at            closes its sending side after so many tokens, and goes on reading
cut_event_at             closes in the middle of an event after so many tokens
endless_event            after so many tokens: one event that has no end
no_done                  true: the stream ends without saying that it is complete
half_utf8                split: every character arrives in pieces; cut: an event ends inside a character
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_GARBAGE = {
    "not_http": b"\x00\xff\x00 this is not HTTP\r\n\r\n",
    "chunk_size": _CHUNKED + b"5\r\nabc\r\nzz\r\n",
    "content_length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "large_header": b"HTTP/1.1 200 OK\r\nX-Large: " + b"x" * 1_000_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "half_head": b"HTTP/1.1 200 OK\r\nContent-Ty",
}
_PIECE = b"x" * 65536
TEXT = "Grüße, 世界 🦊"


async def instead(switches: dict[str, Any], request: int, writer: asyncio.StreamWriter) -> bool:
    """Do what stands in place of an answer; False where there is to be one. Requests are counted from 1."""
    if request <= switches.get("close_first_connections", 0):
        return True
    if "status_500" in switches:
        error = {"code": 500, "message": switches["status_500"], "type": "server_error"}
        respond(writer, 500, {"error": error})
        return True
    garbage = switches.get("garbage")
    if garbage == "endless_headers":
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await _without_end(writer, b"X-More: " + _PIECE + b"\r\n")
    elif garbage:
        writer.write(_GARBAGE[garbage])
    return bool(garbage)


async def at(
    switches: dict[str, Any],
    index: int,
    writer: asyncio.StreamWriter,
    chunk: Callable[[dict[str, Any], str | None], dict[str, Any]],
) -> None:
    """The faults that come before token `index` of a stream. Raises ConnectionError where it ends with that."""
    if index == switches.get("half_close_at"):
        await writer.drain()
        writer.write_eof()
        await asyncio.Event().wait()
    if index == switches.get("cut_event_at"):
        whole = b"data: " + json.dumps(chunk({"content": "never whole"}, None)).encode()
        write_chunk(writer, whole[: len(whole) // 2])
        await writer.drain()
        raise ConnectionError
    if index == switches.get("endless_event"):
        write_chunk(writer, b'data: {"x":"')
        await _without_end(writer, b"10000\r\n" + _PIECE + b"\r\n")
    if "half_utf8" in switches:
        await _utf8(writer, switches["half_utf8"], chunk)


async def _utf8(
    writer: asyncio.StreamWriter, how: str, chunk: Callable[[dict[str, Any], str | None], dict[str, Any]]
) -> None:
    whole = b"data: " + json.dumps(chunk({"content": TEXT}, None), ensure_ascii=False).encode() + b"\n\n"
    if how == "cut":
        last = TEXT[-1].encode()
        write_chunk(writer, whole.replace(last, last[:2]))
        return
    for place in range(0, len(whole), 3):
        write_chunk(writer, whole[place : place + 3])
        await writer.drain()
        await asyncio.sleep(0)


async def _without_end(writer: asyncio.StreamWriter, piece: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()


def respond(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + data
    )


def event(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    write_chunk(writer, b"data: " + json.dumps(body).encode() + b"\n\n")


def write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))

"""One streamed chat request: sent, read to its end, and every failure made a value.

The stream is cut into lines here and not by the HTTP library, whose line reader costs as much again as everything else:
at 2,000 chunks a second the measuring must not take the processor from the measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from localfoundry.chat.arrived import Arrived
from localfoundry.chat.chunks import CHUNK, WHOLE
from localfoundry.chat.failure import Failure, of_status, of_transport

if TYPE_CHECKING:
    import httpx2

_LONGEST_LINE = 4_000_000  # of a stream, in bytes: a server that never ends one must not fill the memory
_LONGEST_REFUSAL = 65_536
_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}


async def ask(
    client: httpx2.AsyncClient,
    body: bytes,
    arrived: Arrived,
    now: Callable[[], float],
    timeout_s: float,
    leaving: asyncio.Lock | None = None,
) -> Failure | None:
    """One request to its end, its failure or the deadline; what came is in `arrived`. Raises only cancellation.

    `client` as `target.Target.open` makes it. `leaving` lets one request at a time out of the house: the parts of many
    would otherwise be sent in turns, each waiting for all others, 18 ms at 40 streams that no server spent.
    """
    import httpx2

    try:
        async with asyncio.timeout(timeout_s):
            try:
                await _stream(client, body, arrived, now, leaving or asyncio.Lock())
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                # llama.cpp's server closes kept-alive connections on its own, now and then just as the next
                # request is on its way; that is no failure of the model. A second time it is reported.
                if arrived.responded:
                    raise
                await _stream(client, body, arrived, now, leaving or asyncio.Lock())
    except TimeoutError:
        return Failure(f"no complete answer within {timeout_s:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        return of_transport(exc, arrived.place)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return Failure(f"{arrived.place}: the server sent what is not a chat completion chunk: {exc}")
    except Failure as exc:
        return exc
    return None


async def _stream(
    client: httpx2.AsyncClient, body: bytes, arrived: Arrived, now: Callable[[], float], leaving: asyncio.Lock
) -> None:
    mine = False

    async def trace(event: str, _: object) -> None:
        nonlocal mine
        if event == "http11.send_request_headers.started":
            mine = mine or await leaving.acquire()
            arrived.sent = now()
        elif mine and event in ("http11.send_request_body.complete", "http11.send_request_body.failed"):
            mine = False
            leaving.release()

    try:
        async with client.stream(
            "POST", "chat/completions", content=body, headers=_HEADERS, extensions={"trace": trace}
        ) as response:
            await _hear(response, arrived, now)
    finally:
        if mine:
            leaving.release()
    if not arrived.complete:
        raise Failure(f"{arrived.place}: the stream ended before the answer did")


async def _hear(response: httpx2.Response, arrived: Arrived, now: Callable[[], float]) -> None:
    """Read to the very end, past [DONE]: a connection left half-read is closed, and the next one pays for a new one."""
    arrived.responded = True
    arrived.status = response.status_code
    if response.status_code != 200:
        raise of_status(response, await _beginning(response, _LONGEST_REFUSAL))
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/html"):
        raise Failure("the server answered with a page of HTML; does the address of its API end in another path?")
    if kind.startswith("application/json"):
        arrived.take_whole(WHOLE.decode(await _beginning(response, _LONGEST_LINE)))
        return
    rest = b""
    async for part in response.aiter_raw():  # nothing is compressed: the client asks for none
        at = now()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            _line(line, arrived, at)
        if len(rest) > _LONGEST_LINE:
            raise Failure(f"{arrived.place}: a line of the stream is longer than {_LONGEST_LINE} bytes")
    _line(rest, arrived, now())


def _line(line: bytes, arrived: Arrived, at: float) -> None:
    if not line.startswith(b"data:"):
        return
    data = line[5:].strip()
    if data == b"[DONE]":
        arrived.complete = True
    elif data:
        arrived.take(CHUNK.decode(data), at)


async def _beginning(response: httpx2.Response, most: int) -> bytes:
    """All of a body, or its first bytes where it has more than `most`."""
    body = b""
    async for part in response.aiter_raw():
        body += part
        if len(body) > most:
            break
    return body[:most]

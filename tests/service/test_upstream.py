"""The path to a worker, against servers that break the protocol in every way a dying process can."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from localfoundry.engines.base import Endpoint
from localfoundry.service import upstream


@asynccontextmanager
async def answering(folder: Path, answer: bytes, *, keep_open: bool = False) -> AsyncIterator[Endpoint]:
    """A worker that reads a request and says exactly these bytes."""

    handlers = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            if keep_open:
                await reader.read()
        writer.transport.close()

    path = str(folder / "w.sock")
    server = await asyncio.start_unix_server(handle, path)
    try:
        yield Endpoint(path=path)
    finally:
        await asyncio.gather(*handlers)
        server.close()
        await server.wait_closed()


async def whole(endpoint: Endpoint) -> tuple[int, bytes]:
    response = await upstream.request(endpoint, "GET", "/x")
    try:
        return response.status, await response.body(1000)
    finally:
        response.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_a_complete_answer_is_read_without_waiting_for_the_end_of_the_connection(
    tmp_path: Path, answer: bytes, body: bytes
) -> None:
    async with answering(tmp_path, answer, keep_open=True) as endpoint, asyncio.timeout(5):
        assert (await whole(endpoint))[1] == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnot a chunk at all\r\n",
        b"\x00\xff\x00 this is not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(tmp_path: Path, answer: bytes) -> None:
    async with answering(tmp_path, answer) as endpoint, asyncio.timeout(5):
        with pytest.raises(upstream.UpstreamClosed):
            await whole(endpoint)


async def test_a_worker_that_is_not_there(tmp_path: Path) -> None:
    for endpoint in (Endpoint(path=str(tmp_path / "none.sock")), Endpoint(port=1)):
        with pytest.raises(upstream.UpstreamClosed):
            await upstream.request(endpoint, "GET", "/x")


async def test_what_arrives_before_the_break_is_handed_on(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    async with answering(tmp_path, answer) as endpoint:
        response = await upstream.request(endpoint, "GET", "/x")
        seen = []
        with pytest.raises(upstream.UpstreamClosed):
            async for block in response.blocks():
                seen += [block]
        response.close()
        assert seen == [b"abc"]


async def test_a_secret_is_sent(tmp_path: Path) -> None:
    seen = asyncio.get_running_loop().create_future()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    endpoint = Endpoint(port=server.sockets[0].getsockname()[1], secret="s3cret")
    assert await whole(endpoint) == (200, b"")
    assert b"Authorization: Bearer s3cret\r\n" in await seen
    server.close()


def test_a_burst_of_requests_waits_for_a_queue_that_is_full(tmp_path: Path) -> None:
    """A Unix socket refuses at once what does not fit its queue; that was answered as a worker that crashed."""
    import uvloop  # the loop of the service; asyncio's own does not tell

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def burst() -> list[tuple[int, bytes]]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "w.sock"))
            listener.listen(1)
            asked = [asyncio.create_task(whole(Endpoint(path=str(tmp_path / "w.sock")))) for _ in range(20)]
            await asyncio.wait(asked, timeout=0.1)  # nobody accepts yet
            async with await asyncio.start_unix_server(handle, sock=listener):
                return await asyncio.gather(*asked)

    assert uvloop.run(burst()) == [(200, b"ok")] * 20


async def test_a_head_without_end_is_bounded(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000
    async with answering(tmp_path, answer, keep_open=True) as endpoint, asyncio.timeout(5):
        with pytest.raises(upstream.UpstreamClosed, match="larger than"):
            await whole(endpoint)


@pytest.mark.parametrize(("answer", "silent"), [(b"", True), (b"HTTP", False), (b"HTTP/1.1 200 OK\r\n\r\nx", False)])
async def test_only_an_answer_without_a_byte_is_silent(tmp_path: Path, answer: bytes, silent: bool) -> None:
    """What may be asked again: not an answer of which something was seen."""
    async with answering(tmp_path, answer) as endpoint, asyncio.timeout(5):
        with pytest.raises(upstream.UpstreamClosed) as closed:
            await whole(endpoint)
    assert closed.value.silent is silent

"""What one connection may cost: heads and bodies without end, senders and readers that are slow, too many at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from api.server import HELLO, Server, text_of
from harness import wait_until


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with one second of patience for senders and readers, and a fast fake model."""
    made = Server(
        tmp_path_factory.mktemp("home"),
        FOUNDRY_REQUEST_TIMEOUT=1,
        FOUNDRY_SLOW_READER_TIMEOUT=1,
        FOUNDRY_MAX_CONNECTIONS=20,
        FOUNDRY_MAX_MESSAGES=5,
        FOUNDRY_CONTEXT_LENGTH=1_000_000,
    )
    made.fake("fake", tokens_per_second=2000)
    yield made.start()
    made.stop()


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        yield raw


def said(raw: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error of an answer, read to the end of the connection."""
    data = b""
    while block := raw.recv(65536):
        data += block
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def send_without_end(raw: socket.socket, piece: bytes, most: int) -> int:
    """Bytes sent until the other side closed the connection."""
    sent = 0
    try:
        while sent < most:
            raw.sendall(piece)
            sent += len(piece)
    except OSError:
        return sent
    raise AssertionError(f"{most} bytes were taken")


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def resident(server: Server) -> int:
    return int(psutil.Process(server.state.pid).memory_info().rss)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /", b"x" * 4096),
        (b"GET / HTTP/1.1\r\nX: ", b"x" * 4096),
        (b"GET / HTTP/1.1\r\n", b"X: yy\r\n" * 500),
        (b"", b"\r\n" * 2000),
        (CHUNKED + b"0\r\n", b"X: yy\r\n"),
        (CHUNKED + b"5;x=", b"y" * 4096),
    ],
    ids=["url", "header", "headers", "empty-lines", "trailers", "chunk-extension"],
)  # fmt: skip
def test_what_comes_before_and_after_a_body_is_bounded(server: Server, start: bytes, piece: bytes) -> None:
    """The parser keeps all of it, and the server's own limit is for another parser."""
    before = resident(server)
    with connected(server) as raw:
        raw.sendall(start)
        assert send_without_end(raw, piece, 50_000_000) < 20_000_000  # what the sockets between us hold
    assert resident(server) - before < 20_000_000
    assert text_of(server.chat("fake", max_tokens=1))


def test_a_head_that_is_too_large_is_said(server: Server) -> None:
    with connected(server) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 300 + b"\r\n")
        status, error = said(raw)
    assert (status, error["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "line", [b"nonsense", b"GET /\xff HTTP/1.1", b"GET http://[ HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"GET x HTTP/1.1"]
)
def test_what_is_not_http_is_refused_in_the_shape_of_an_error(server: Server, line: bytes) -> None:
    with connected(server) as raw:
        raw.sendall(line + b"\r\n\r\n")
        status, error = said(raw)
    assert 400 <= status < 500
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: local",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["nothing", "head", "body"],
)
def test_a_request_that_trickles_in_is_not_waited_for(strict: Server, sent: bytes) -> None:
    with connected(strict) as raw:
        raw.sendall(sent)
        status, error = said(raw)
    assert (status, error["code"]) == (408, "request_too_slow")


def test_the_time_to_send_is_not_the_time_to_answer(strict: Server) -> None:
    name = strict.fake("takes-longer", tokens_per_second=4)
    assert text_of(strict.chat(name, max_tokens=8))


def test_a_second_request_on_a_connection_has_a_time_of_its_own(strict: Server) -> None:
    with connected(strict) as raw:
        for _ in range(3):
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += raw.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            deadline = time.monotonic() + 0.5
            wait_until(lambda end=deadline: time.monotonic() > end, 5, "time stands still")
        raw.sendall(b"GET /hea")
        assert said(raw)[0] == 408


def test_more_connections_than_allowed_are_refused_and_then_let_in(strict: Server) -> None:
    host, port = strict.url.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(25)]
    try:
        refused = [said(raw) for raw in held[22:]]
        assert {(status, error["code"]) for status, error in refused} == {(503, "too_many_connections")}
    finally:
        for raw in held:
            raw.close()
    wait_until(lambda: strict.http.get("/health").status_code == 200, 5, "the connections are still counted")


def test_too_many_messages_are_refused_by_name(strict: Server) -> None:
    error = strict.error("fake", 400, messages=HELLO * 6)
    assert (error["param"], error["hint"]) == ("messages", "setting maxMessages")
    assert text_of(strict.chat("fake", messages=HELLO * 5, max_tokens=1))


def test_a_body_that_is_announced_too_large_is_not_waited_for(server: Server) -> None:
    with connected(server) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        status, error = said(raw)
    assert (status, error["code"]) == (413, "request_too_large")


def test_a_client_that_does_not_read_holds_neither_memory_nor_the_worker(strict: Server) -> None:
    """50 MB of answer to a client that takes none of it: the worker waits, then the client is let go; others go on."""
    name = strict.fake("wordy", answer="x" * 50_000, tokens_per_second=100_000)
    strict.post("/foundry/load", {"model": name})
    strict.post("/foundry/load", {"model": "fake", "retain": True})
    before = resident(strict)
    body = json.dumps({"model": name, "messages": HELLO, "stream": True, "max_tokens": 1000}).encode()
    with connected(strict) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        wait_until(lambda: strict.counters(name)["generated"] > 10, 5, "nothing is generated")
        assert text_of(strict.chat("fake", max_tokens=2)) == "token token"
        wait_until(lambda: strict.counters(name)["running"] == 0, 10, "the worker still answers")
        assert strict.counters(name)["generated"] < 500, "the worker was not held back"
    assert resident(strict) - before < 20_000_000
    assert "took nothing of its answer" in (strict.settings.log_dir / "service.log").read_text()


def test_a_client_that_reads_slowly_but_steadily_gets_everything(strict: Server) -> None:
    name = strict.fake("steady", answer="x" * 50_000, tokens_per_second=100_000)
    body = json.dumps({"model": name, "messages": HELLO, "stream": True, "max_tokens": 60}).encode()
    with connected(strict) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        raw.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        seen = b""
        due = time.monotonic()
        while block := raw.recv(40_000):
            seen += block
            due += 0.02
            wait_until(lambda end=due: time.monotonic() > end, 5, "time stands still")
    assert b"data: [DONE]" in seen
    assert seen.count(b"x" * 50_000) >= 1
    assert len(seen) > 3_000_000

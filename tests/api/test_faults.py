"""Workers that fail in every way a connection can fail: the client gets an answer, or an error that it understands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.server import HELLO, Server, events, text_of
from harness import wait_until
from localfoundry.workers.fake_faults import TEXT

GARBAGE = ["not_http", "chunk_size", "content_length", "large_header", "endless_headers", "half_head"]


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that waits one second for a token."""
    made = Server(
        tmp_path_factory.mktemp("home"),
        FOUNDRY_CONTEXT_LENGTH=2048,
        FOUNDRY_FIRST_TOKEN_TIMEOUT=1,
        FOUNDRY_STREAM_IDLE_TIMEOUT=1,
    )
    yield made.start()
    made.stop()


def _streamed(server: Server, model: str, **fields: object) -> list[Any]:
    with server.streaming(model, max_tokens=10, **fields) as lines:
        return events(lines)


def _broken_off(seen: list[Any], code: str) -> dict[str, Any]:
    """The error of a stream that ended with one, properly."""
    assert seen[-1] == "[DONE]"
    error: dict[str, Any] = seen[-2]["error"]
    assert error["code"] == code
    assert error["request_id"]
    return error


@pytest.mark.parametrize("stream", [True, False])
def test_a_connection_that_the_engine_closes_without_a_word_is_never_seen(server: Server, stream: bool) -> None:
    """Engines close connections on their own; nothing of an answer had come, so asking again is safe."""
    name = server.fake(f"closes-{stream}".lower(), close_first_connections=1)
    if stream:
        assert _streamed(server, name)[-1] == "[DONE]"
    else:
        assert text_of(server.chat(name, max_tokens=2)) == "token token"
    assert server.counters(name)["requests"] == 2


def test_an_engine_that_goes_on_closing_is_asked_twice_and_no_more(server: Server) -> None:
    name = server.fake("closes-always", close_first_connections=100)
    assert server.error(name, 503)["code"] == "worker_crashed"
    assert server.counters(name)["requests"] == 2


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_no_answer_is_an_error_of_the_worker(server: Server, kind: str, stream: bool) -> None:
    name = server.fake(f"garbage-{kind}".replace("_", "-"), garbage=kind)
    assert server.error(name, 503, stream=stream)["code"] == "worker_crashed"
    assert server.loaded(name), "a worker is not ended for one bad answer"


@pytest.mark.parametrize("fault", ["half_close_at", "cut_event_at"])
def test_a_stream_that_ends_in_the_middle(server: Server, fault: str) -> None:
    name = server.fake(fault.replace("_", "-"), **{fault: 2})
    seen = _streamed(server, name)
    _broken_off(seen, "worker_crashed")
    assert [one["choices"][0]["delta"]["content"] for one in seen[:-2]] == ["token", " token"]
    assert server.error(name, 503)["code"] == "worker_crashed"


def test_a_stream_that_does_not_say_it_is_complete_is_not_taken_for_complete(server: Server) -> None:
    name = server.fake("no-done", no_done=True)
    _broken_off(_streamed(server, name), "engine_error")
    assert server.error(name, 500)["code"] == "engine_error"


def test_an_event_without_end_is_bounded(server: Server) -> None:
    name = server.fake("endless-event", endless_event=1)
    error = _broken_off(_streamed(server, name), "engine_error")
    assert "16000000" in error["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_characters_that_arrive_in_pieces_are_whole_again(server: Server, stream: bool) -> None:
    name = server.fake("utf8-split", half_utf8="split")
    if stream:
        seen = _streamed(server, name)
        text = "".join(one["choices"][0]["delta"].get("content", "") for one in seen[:-1])
    else:
        text = text_of(server.chat(name, max_tokens=10))
    assert text.count(TEXT) == 10


@pytest.mark.parametrize("stream", [True, False])
def test_half_a_character_is_replaced_and_the_answer_stays_readable(server: Server, stream: bool) -> None:
    """The official clients decode strictly: one bad byte would end their stream."""
    name = server.fake("utf8-cut", half_utf8="cut")
    body = {"model": name, "messages": HELLO, "stream": stream, "max_tokens": 1}
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert TEXT[:-1] + "\N{REPLACEMENT CHARACTER}" in json.dumps(answer.content.decode("utf-8"), ensure_ascii=False)


def test_an_engines_own_error_keeps_its_words(server: Server) -> None:
    name = server.fake("says-500", status_500="the tensor is crooked")
    error = server.error(name, 500)
    assert (error["code"], error["message"]) == ("engine_error", "the tensor is crooked")


def test_an_engines_error_that_no_repetition_helps_is_not_repeated_by_clients(server: Server) -> None:
    """llama.cpp answers 500 to an image it cannot read, and OpenAI clients would send it again."""
    name = server.fake("says-500-for-good", status_500="image input is not supported - hint: ...")
    assert server.error(name, 400)["code"] == "invalid_request"


# Silence


@pytest.mark.parametrize("stream", [True, False])
def test_no_first_token_in_time(impatient: Server, stream: bool) -> None:
    name = impatient.fake("silent", slow_first_token_s=60)
    error = impatient.error(name, 504, stream=stream)
    assert error["code"] == "engine_timeout"
    assert error["hint"] == "setting firstTokenTimeoutSeconds"
    wait_until(lambda: impatient.counters(name)["running"] == 0, 5, "the worker still answers")


def test_a_comment_is_no_token(impatient: Server) -> None:
    """llama.cpp writes one every 30 s, stuck or not. Clients get it, and do not give up before we do."""
    name = impatient.fake("pings", slow_first_token_s=60, pings=True)
    body = {"model": name, "messages": HELLO, "stream": True}
    with impatient.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == ":"
    _broken_off(events(line for line in lines if line != ":"), "engine_timeout")
    assert impatient.error(name, 504)["code"] == "engine_timeout"


def test_a_stream_that_stops_coming(impatient: Server) -> None:
    name = impatient.fake("stops", hang_at=2)
    error = _broken_off(_streamed(impatient, name), "engine_timeout")
    assert error["hint"] == "setting streamIdleTimeoutSeconds"
    assert impatient.error(name, 504)["code"] == "engine_timeout"
    loaded = impatient.loaded(name)
    assert loaded is not None
    assert loaded["requests_running"] == 0


def test_an_answer_that_takes_longer_than_the_patience_for_one_token_is_let_be(impatient: Server) -> None:
    name = impatient.fake("slow", tokens_per_second=3)
    assert text_of(impatient.chat(name, max_tokens=8)) == " ".join(["token"] * 8)


# The memory that answers share


@pytest.mark.parametrize("stream", [True, False])
def test_answers_that_fill_their_memory_together_are_repeated_alone(server: Server, stream: bool) -> None:
    """The engine ends all of them. Each would fit, and each is answered, one after the other."""
    name = server.fake(f"memory-{stream}".lower(), memory_tokens=400, tokens_per_second=10)
    long = [{"role": "user", "content": "word " * 150}]

    def one(_: int) -> str:
        if not stream:
            return text_of(server.chat(name, messages=long, max_tokens=3))
        with server.streaming(name, messages=long, max_tokens=3) as lines:
            told = events(lines)
        return "".join(e["choices"][0]["delta"].get("content", "") for e in told[:-1] if "error" not in e)

    server.chat(name, max_tokens=1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(4)))
    assert answers == [" ".join(["token"] * 3)] * 4
    assert server.counters(name)["requests"] > 5, "nothing was repeated: the test does not test"


def test_an_answer_that_had_begun_ends_with_what_happened(server: Server) -> None:
    name = server.fake("memory-late", memory_tokens=150, tokens_per_second=100)
    with server.streaming(name, max_tokens=120) as first:
        next(first)
        with server.streaming(name, max_tokens=120) as second:
            seen = [events(first), events(second)]
    for one in seen:
        error = _broken_off(one, "context_memory_exhausted")
        assert "--ctx" in error["hint"]


# Cancelling


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_costs_one_token_more_at_most(server: Server, stream: bool) -> None:
    """By the worker's own count."""
    import socket

    name = server.fake(f"counted-{stream}".lower(), tokens_per_second=8)
    server.post("/foundry/load", {"model": name})
    body = json.dumps({"model": name, "messages": HELLO, "stream": stream, "max_tokens": 500}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaving:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        leaving.sendall(head.encode() + body)
        wait_until(lambda: server.counters(name)["generated"] >= 3, 10, "nothing is generated")
        before = server.counters(name)["generated"]
    wait_until(lambda: server.counters(name)["running"] == 0, 5, "the worker still answers")
    assert server.counters(name)["generated"] <= before + 1

"""What goes wrong while an engine works, the same for every engine: the fake one, and the real ones on the real model.

The fake one's cases run with all tests; those of the real ones are the long proof (`make test-engines`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from api.server import HELLO, Server, events, text_of, wait_gone
from harness import wait_until, workers_of
from localfoundry import instance
from localfoundry.store.manifest import Manifest

ENGINES = ("fake", "llama.cpp", "openvino", "onnx")
AT_ONCE = ("fake",)
MODEL = "smollm2-135m"
SECOND = "second"
CONTEXT = 2048
HANG_S = 3
PATIENT_S = 120  # the longest that anything may take here, on a machine that is busy with other things
SEEN_ELSEWHERE = pytest.mark.thorough  # with the fake engine: tests/service/test_operation.py, tests/api/test_daemon.py
LONG: Any = {"max_tokens": 1500, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def running(
    engine: str, request: pytest.FixtureRequest, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service with the starter model, and the same again as `second`; or with two fake models of these names."""
    made = Server(
        tmp_path_factory.mktemp("faults"), FOUNDRY_CONTEXT_LENGTH=CONTEXT, FOUNDRY_HANG_TIMEOUT=HANG_S,
        FOUNDRY_ENGINE=engine, FOUNDRY_DRAIN_TIMEOUT=60,
    )  # fmt: skip
    if engine == "fake":
        for name in (MODEL, SECOND):
            made.fake(name, tokens_per_second=300, load_s=0.3)
    else:
        made.has(request.getfixturevalue("starter_store"))
        manifest = made.store.find(MODEL)
        assert manifest is not None
        made.again(manifest, SECOND)
    if engine == "llama.cpp":  # its threads wait for each other at full speed, and for long where others compute
        one = {"engineArguments": ["--threads", "1"]}
        made.settings.file.write_text(json.dumps({"models": {MODEL: one, SECOND: one}}))
    made.start()
    made.http.timeout = PATIENT_S
    yield made
    made.stop()


@pytest.fixture
def loaded(running: Server, engine: str) -> dict[str, Any]:
    """The model alone, loaded by the engine that is meant, with nothing to do."""
    running.get("/openai/unloadall")
    model = running.post("/foundry/load", {"model": MODEL})
    assert model["engine_name"] == engine, "another engine ran: the suite would say nothing"
    return dict(model)


def _sound(server: Server, *, instead_of: int | None = None) -> None:
    """A request is answered, by a new process where one had to be replaced, and there is no other one."""
    assert server.chat(MODEL, max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3
    model = server.loaded(MODEL)
    assert model is not None and model["requests_running"] == 0
    assert model["pid"] != instead_of
    assert [process.pid for process in workers_of(server.state.pid)] == [model["pid"]]
    assert len(list(Path(server.state.socket_dir).iterdir())) == 1, "the socket of a worker that is gone"


def _idle(pid: int) -> bool:
    """Whether a process has used next to no processor time for a third of a second."""
    process = psutil.Process(pid)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(0.3)
    return bool(sum(process.cpu_times()[:2]) - before < 0.1 * (time.monotonic() - began))


def _generated(server: Server, engine: str, before: int) -> int:
    """Tokens of the last answer, in the engine's own words: of prompt and answer; of a fake one, of the answer."""
    if engine == "fake":
        return server.counters(MODEL)["generated"] - before
    log = server.settings.log_dir / "worker-smollm2-135m-instruct-q4_1.log"
    log = log if log.exists() else next(server.settings.log_dir.glob(f"worker-{MODEL}*.log"))
    said = wait_until(
        lambda: re.findall(r"stop processing: n_tokens = (\d+)", log.read_text()), 10, "the engine does not say so"
    )
    return int(said[-1])


@contextmanager
def _connection(server: Server, fields: dict[str, Any]) -> Iterator[socket.socket]:
    """A chat request on its way, over a connection of the test's own, with a small place for what comes back."""
    body = json.dumps({"model": MODEL, "messages": HELLO, **fields}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.settimeout(PATIENT_S)
        made.connect((host, int(port)))
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        made.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield made


# The worker


def test_a_worker_that_is_killed_ends_its_streams_with_an_error(running: Server, loaded: dict[str, Any]) -> None:
    with running.streaming(MODEL, **LONG) as one, running.streaming(MODEL, **LONG) as other:
        next(one), next(other)
        os.kill(loaded["pid"], signal.SIGKILL)
        seen = [events(one), events(other)]
    for told in seen:
        assert told[-1] == "[DONE]"
        assert told[-2]["error"]["code"] == "worker_crashed"
    _sound(running, instead_of=loaded["pid"])


def test_a_worker_that_is_killed_fails_a_plain_answer(running: Server, loaded: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(running.error, MODEL, 503, **LONG)
        wait_until(lambda: (running.loaded(MODEL) or {}).get("requests_running") == 1, 10, "no request has come")
        os.kill(loaded["pid"], signal.SIGKILL)
        assert answer.result()["code"] == "worker_crashed"
    _sound(running, instead_of=loaded["pid"])


@SEEN_ELSEWHERE
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_worker_that_is_stopped_is_ended_and_replaced(running: Server, loaded: dict[str, Any]) -> None:
    with running.streaming(MODEL, **LONG) as lines:
        next(lines)
        os.kill(loaded["pid"], signal.SIGSTOP)
        seen = events(lines)
    assert seen[-2]["error"]["code"] == "worker_crashed"
    assert "no sign of life" in seen[-2]["error"]["message"]
    _sound(running, instead_of=loaded["pid"])


def test_a_worker_that_is_killed_while_it_loads_leaves_nothing(running: Server, engine: str) -> None:
    running.get("/openai/unloadall")
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(running.http.post, "/foundry/load", json={"model": MODEL, "engine": engine})
        [worker] = wait_until(lambda: workers_of(running.state.pid), 20, "no load has begun")
        worker.kill()
        answer = load.result()
    assert 400 <= answer.status_code < 500, "clients would repeat it by themselves"
    assert answer.json()["error"]["code"] == "out_of_memory", "that is who ends a process without a word"
    assert running.get("/foundry/ps") == []
    assert running.get("/foundry/stats")["memory"]["claimed"] == 0
    assert workers_of(running.state.pid) == []
    assert list(Path(running.state.socket_dir).iterdir()) == []
    assert running.post("/foundry/load", {"model": MODEL})["state"] == "ready"
    _sound(running)


def test_an_unload_while_it_loads_ends_it(running: Server) -> None:
    running.get("/openai/unloadall")
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(running.http.post, "/foundry/load", json={"model": MODEL})
        wait_until(lambda: workers_of(running.state.pid), 20, "no load has begun")
        running.unload(MODEL)
        load.result()
    wait_until(lambda: not workers_of(running.state.pid), 10, "its worker is still there")
    assert running.get("/foundry/stats")["memory"]["claimed"] == 0
    _sound(running)


# Clients


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_client_that_goes_away_ends_its_generation(
    running: Server, loaded: dict[str, Any], engine: str, stream: bool
) -> None:
    before = running.counters(MODEL)["generated"] if engine == "fake" else 0
    with _connection(running, {**LONG, "stream": stream}) as leaving:
        if stream:
            leaving.recv(1)
        else:
            wait_until(lambda: (running.loaded(MODEL) or {}).get("requests_running") == 1, 10, "no request has come")
    wait_until(lambda: _idle(loaded["pid"]), PATIENT_S, "the engine still generates")
    assert _generated(running, engine, before) < 1200, "it was not ended: it came to its end"
    _sound(running)


def test_a_client_that_reads_slowly_holds_nobody_up_and_gets_all(running: Server, loaded: dict[str, Any]) -> None:
    """It reads nothing until others have been answered: what it has not taken waits for it."""
    fields = {**LONG, "max_tokens": 300, "stream": True, "stream_options": {"include_usage": True}}
    with _connection(running, fields) as slow:
        for _ in range(3):
            assert running.chat(MODEL, max_tokens=8, ignore_eos=True)["usage"]["completion_tokens"] == 8
        received = b""
        while block := slow.recv(4096):
            received += block
    lines = (line for line in received.decode().splitlines() if line.startswith("data: "))
    told = events(lines)
    assert told[-1] == "[DONE]"
    assert told[-2]["usage"]["completion_tokens"] == 300
    assert received.endswith(b"0\r\n\r\n")
    _sound(running)


def test_a_request_longer_than_the_context_harms_nobody(running: Server, loaded: dict[str, Any]) -> None:
    long = [{"role": "user", "content": "word " * (CONTEXT + 500)}]
    with running.streaming(MODEL, **{**LONG, "max_tokens": 40}) as lines:
        next(lines)
        for stream in (False, True):
            error = running.error(MODEL, 400, messages=long, stream=stream)
            assert error["code"] == "context_length_exceeded"
            assert error["prompt_tokens"] >= CONTEXT + 500
            assert error["context_length"] == CONTEXT
        assert events(lines)[-1] == "[DONE]"
    _sound(running)


# Models that come and go


def test_two_models_in_turns_are_both_served(running: Server) -> None:
    """Requests for both at once, with room for one: each switch waits for answers and none is lost."""
    running.get("/openai/unloadall")
    names = [MODEL, SECOND] * 3
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda name: running.chat(name, max_tokens=6, ignore_eos=True), names))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [6] * 6
    wait_until(lambda: len(workers_of(running.state.pid)) == 1, 20, "a worker is left over")
    [left] = running.get("/foundry/ps")
    assert running.get("/foundry/stats")["memory"]["claimed"] > 0
    running.unload(left["alias"])
    assert running.get("/foundry/stats")["memory"]["claimed"] == 0


def test_an_unload_lets_the_stream_end(running: Server, loaded: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool, running.streaming(MODEL, **{**LONG, "max_tokens": 40}) as lines:
        next(lines)
        unload = pool.submit(running.unload, MODEL)
        seen = events(lines)
        unload.result()
    assert seen[-1] == "[DONE]" and "error" not in seen[-2]
    assert seen[-2]["choices"][0]["finish_reason"]
    wait_gone(loaded["pid"], 5)
    _sound(running, instead_of=loaded["pid"])


def test_a_forced_unload_cuts_the_stream_and_says_so(running: Server, loaded: dict[str, Any]) -> None:
    with running.streaming(MODEL, **LONG) as lines:
        next(lines)
        running.post("/foundry/unload", {"model": MODEL, "force": True})
        seen = events(lines)
    assert seen[-1] == "[DONE]"
    assert seen[-2]["error"]["code"] == "service_stopping"
    wait_gone(loaded["pid"], 5)
    _sound(running, instead_of=loaded["pid"])


# The service; each of these starts it again


@SEEN_ELSEWHERE
def test_a_stop_lets_the_stream_end(running: Server, loaded: dict[str, Any]) -> None:
    state = running.state
    with running.streaming(MODEL, **{**LONG, "max_tokens": 40}) as lines:
        next(lines)
        os.kill(state.pid, signal.SIGTERM)
        seen = events(lines)
    assert seen[-1] == "[DONE]" and "error" not in seen[-2]
    assert instance.wait_stopped(running.settings, 20)
    wait_gone(loaded["pid"], 5)
    assert not Path(state.socket_dir).exists()
    running.start()
    _sound(running)


@SEEN_ELSEWHERE
def test_a_service_that_is_killed_takes_its_workers_with_it(running: Server, loaded: dict[str, Any]) -> None:
    """The next start works although state and sockets are left over."""
    pid = running.state.pid
    with pytest.raises(httpx2.HTTPError), running.streaming(MODEL, **LONG) as lines:
        next(lines)
        os.kill(pid, signal.SIGKILL)
        for _ in lines:
            pass
    wait_gone(loaded["pid"], 5)
    running.start()
    _sound(running, instead_of=loaded["pid"])


@SEEN_ELSEWHERE
def test_a_service_that_is_killed_while_it_loads_leaves_no_worker(running: Server) -> None:
    running.get("/openai/unloadall")
    pid = running.state.pid
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(running.http.post, "/foundry/load", json={"model": MODEL})
        [worker] = wait_until(lambda: workers_of(pid), 20, "no load has begun")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx2.HTTPError):
            load.result()
    wait_gone(worker.pid, 5)
    running.start()
    assert text_of(running.chat(MODEL, max_tokens=3))

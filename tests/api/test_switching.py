"""Which models are loaded when, seen through HTTP on the fake engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from api.server import Server, events, text_of
from harness import wait_until, workers_of


@pytest.fixture(autouse=True)
def nothing_loaded(server: Server) -> None:
    server.get("/openai/unloadall")


def _aliases(server: Server) -> list[str]:
    return [m["alias"] for m in server.get("/foundry/ps")]


def test_the_first_request_loads_and_the_second_finds_it_loaded(server: Server) -> None:
    server.chat("fake", max_tokens=1)
    first = server.loaded("fake")
    server.chat("fake", max_tokens=1)
    second = server.loaded("fake")
    assert first is not None
    assert second is not None
    assert first["pid"] == second["pid"]
    assert [p.pid for p in workers_of(server.state.pid)] == [first["pid"]]


def test_concurrent_first_requests_load_once(server: Server) -> None:
    name = server.fake("slow-load", load_s=0.3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.chat(name, max_tokens=1), range(8)))
    assert [text_of(answer) for answer in answers] == ["token"] * 8
    assert len(workers_of(server.state.pid)) == 1


def test_a_request_for_another_model_switches_and_cuts_no_answer(server: Server) -> None:
    first, second = server.fake("first", tokens_per_second=100), server.fake("second")
    with server.streaming(first, max_tokens=500) as lines, ThreadPoolExecutor(1) as pool:
        next(lines)
        switched = pool.submit(server.chat, second, max_tokens=1)
        wait_until(lambda: (server.loaded(first) or {}).get("state") == "draining", 4.5, "no switch has begun")
        seen = events(lines)
        assert seen[-1] == "[DONE]"
        assert len([e for e in seen[:-1] if e["choices"][0]["delta"].get("content")]) == 499
        assert text_of(switched.result()) == "token"
    assert _aliases(server) == [second]


def test_clients_that_want_different_models_are_all_served(server: Server) -> None:
    """Their loads once unloaded each other before either answered."""
    names = [server.fake("left"), server.fake("right")]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: server.chat(names[i % 2], max_tokens=2), range(12)))
    assert all(text_of(answer) == "token token" for answer in answers)


def test_retain_keeps_both(server: Server) -> None:
    other = server.fake("retained")
    server.chat("fake", max_tokens=1)
    loaded = server.post("/foundry/load", {"model": other, "retain": True})
    assert loaded["already_loaded"] is False
    assert sorted(_aliases(server)) == ["fake", other]
    assert server.post("/foundry/load", {"model": other, "retain": True})["already_loaded"] is True
    server.post("/foundry/load", {"model": other})
    assert sorted(_aliases(server)) == ["fake", other], "a model that is loaded already needs no room"


def test_an_idle_model_is_unloaded_after_its_time_to_live(server: Server) -> None:
    loaded = server.post("/foundry/load", {"model": "fake", "ttl": 1})
    assert 0 < loaded["ttl_left_s"] <= 1
    wait_until(lambda: not _aliases(server), 4, "the model is still loaded")
    wait_until(lambda: not psutil.pid_exists(loaded["pid"]), 4, "its process still runs")


def test_an_explicit_unload_ends_the_process(server: Server) -> None:
    loaded = server.post("/foundry/load", {"model": "fake"})
    assert server.post("/foundry/unload", {"model": "fake"}) == {"unloaded": True}
    assert not psutil.pid_exists(loaded["pid"])
    assert server.post("/foundry/unload", {"model": "fake"}) == {"unloaded": False}


def test_a_worker_that_ignores_sigterm_is_killed_within_the_grace(server: Server) -> None:
    loaded = server.post("/foundry/load", {"model": server.fake("stubborn", ignore_sigterm=True)})
    server.unload("stubborn")
    assert not psutil.pid_exists(loaded["pid"])


def test_a_client_that_leaves_during_a_load_does_not_stop_it(server: Server) -> None:
    import httpx2

    name = server.fake("patient", load_s=0.5)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=0.1) as leaving, pytest.raises(httpx2.ReadTimeout):
        leaving.post("/v1/chat/completions", json={"model": name, "messages": [{"role": "user", "content": "x"}]})
    wait_until(lambda: _aliases(server) == [name], 3, "the model is not loaded")
    loaded = server.loaded(name)
    assert loaded is not None
    assert loaded["requests_running"] == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"ttl": -1}, "ttl"), ({"ttl": 10**12}, "ttl"), ({"context": 0}, "context"), ({"device": "GPU"}, "device")],
)
def test_load_options_out_of_range_are_refused(server: Server, fields: dict[str, object], param: str) -> None:
    assert server.post("/foundry/load", {"model": "fake", **fields}, 400)["error"]["param"] == param


def test_another_context_loads_again(server: Server) -> None:
    assert server.post("/foundry/load", {"model": "fake", "context": 100})["context"] == 100
    assert server.error("fake", 400, messages=[{"role": "user", "content": "w " * 100}])["context_length"] == 100
    assert server.post("/foundry/load", {"model": "fake", "context": 200})["context"] == 200


def test_many_streams_at_once_are_each_whole(server: Server) -> None:
    start = threading.Barrier(12)

    def one(count: int) -> int:
        start.wait(10)
        with server.streaming("fake", max_tokens=count) as lines:
            return len([e for e in events(lines)[:-1] if e["choices"][0]["delta"].get("content")])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, range(20, 32))) == list(range(20, 32))

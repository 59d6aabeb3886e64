"""The OpenAI endpoints on the fake engine: answers, refusals that name the field, and workers that fail."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from api.server import HELLO, Server, events, text_of
from harness import wait_until


def test_a_plain_answer(server: Server) -> None:
    answer = server.chat("fake", max_tokens=3)
    assert text_of(answer) == "token token token"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["model"].startswith("fake:")


def test_a_streamed_answer_is_events_to_the_end(server: Server) -> None:
    with server.streaming("fake", max_tokens=4, stream_options={"include_usage": True}) as lines:
        seen = events(lines)
    assert seen[-1] == "[DONE]"
    assert seen[-2]["usage"]["completion_tokens"] == 4
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in seen[:-2]) == "token token token token"


def test_headers_of_a_stream(server: Server) -> None:
    body = {"model": "fake", "messages": HELLO, "stream": True, "max_tokens": 1}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert len(answer.headers["x-request-id"]) == 16


def test_every_answer_has_a_request_id_of_its_own(server: Server) -> None:
    answers = [server.http.get("/health"), server.http.get("/nothing"), server.http.get("/v1/chat/completions")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


def test_unknown_fields_are_ignored(server: Server) -> None:
    assert text_of(server.chat("fake", max_tokens=1, reasoning="high", metadata={"a": 1}, ttl=5, ep="CPU", top_k=4))


@pytest.mark.parametrize("name", ["fake:1", "FAKE", "fake"])
def test_a_model_goes_by_all_its_names(server: Server, name: str) -> None:
    assert text_of(server.chat(name, max_tokens=1)) == "token"


def test_an_unknown_model_gets_the_nearest_names(server: Server) -> None:
    error = server.error("phi-4-mni", 404)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "phi-4-mini" in error["hint"]


def test_a_model_that_is_not_downloaded(server: Server) -> None:
    error = server.error("phi-4-mini", 404)
    assert error["code"] == "model_not_cached"
    assert "No OpenAIService provider found for modelName phi-4-mini" in error["message"]
    assert error["hint"] == "foundry model download phi-4-mini"


_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": "hello"}, "messages"),
    ({"messages": {"role": "user"}}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"max_tokens": "abc"}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "many"}, "max_completion_tokens"),
    ({"stream": 1}, "stream"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stop": 5}, "stop"),
    ({"seed": "x"}, "seed"),
    ({"random_seed": []}, "random_seed"),
    ({"n": 0}, "n"),
    ({"tools": {}}, "tools"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), _WRONG, ids=[json.dumps(fields) for fields, _ in _WRONG])
def test_a_field_of_the_wrong_type_is_refused_by_name(server: Server, fields: dict[str, Any], param: str) -> None:
    body = {"model": "fake", "messages": HELLO, **fields}
    error = server.post("/v1/chat/completions", body, 400)["error"]
    assert error["type"] == "invalid_request_error"
    assert _indexed(error["param"]) == _indexed(param)


def _indexed(param: str) -> str:
    return param.replace("[0]", "[]").replace("[...]", "[]")


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(server: Server, missing: str) -> None:
    body = {name: value for name, value in {"model": "fake", "messages": HELLO}.items() if name != missing}
    error = server.post("/v1/chat/completions", body, 400)["error"]
    assert error["param"] == missing


def _raw(server: Server, body: bytes, path: str = "/v1/chat/completions") -> httpx2.Response:
    return server.http.post(path, content=body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"model": fake}', b"model=fake", b'{"model": "\xff"}', b'{"model":"fake","temperature":NaN}']
)
def test_a_body_that_is_not_json_is_refused_with_the_position(server: Server, body: bytes) -> None:
    answer = _raw(server, body)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("the body is not valid JSON")
    assert not body or "byte" in message or "truncated" in message


def test_json_nested_beyond_reason_is_refused(server: Server) -> None:
    """In a field that is not read, too; the parser's own limit was once answered as an error of the service."""
    body = b'{"model":"fake","messages":[{"role":"user","content":"hi"}],"x":' + b"[" * 40_000 + b"]" * 40_000 + b"}"
    answer = _raw(server, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the body is nested too deeply"


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"x"'])
def test_json_that_is_no_object_is_refused(server: Server, body: bytes) -> None:
    answer = _raw(server, body)
    assert answer.status_code == 400
    assert "Expected `object`" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_and_not_read_to_its_end(server: Server) -> None:
    answer = _raw(server, b'{"model": "' + b"x" * 200_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert "100000" in answer.json()["error"]["message"]


def test_a_body_of_unknown_length_is_bounded_too(server: Server) -> None:
    answer = server.http.post("/v1/chat/completions", content=(b"x" * 10_000 for _ in range(50)))
    assert answer.status_code == 413


def test_a_prompt_that_does_not_fit_is_refused_with_counts(server: Server) -> None:
    error = server.error("fake", 400, messages=[{"role": "user", "content": "word " * 3000}])
    assert error["code"] == "context_length_exceeded"
    assert (error["prompt_tokens"], error["context_length"]) == (3000, 2048)
    assert error["param"] == "messages"
    assert error["hint"] == "foundry model run fake --ctx 3256"


def test_an_unknown_url(server: Server) -> None:
    answer = server.http.get("/v2/chat")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("PUT", "/health")]
)
def test_a_wrong_method_has_the_shape_of_an_error(server: Server, method: str, path: str) -> None:
    """It was plain text once, which clients that decode every answer as JSON report as their own failure."""
    answer = server.http.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "invalid_method"
    assert answer.headers["allow"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "["])
def test_a_host_that_is_not_this_machine_is_refused(server: Server, host: str) -> None:
    """DNS rebinding: a web page's own name that points to 127.0.0.1."""
    answer = server.http.get("/openai/unloadall", headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "[::1]:8000"])
def test_names_of_this_machine_are_let_in(server: Server, host: str) -> None:
    assert server.http.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_that_a_page_of_another_site_makes_are_refused(server: Server, headers: dict[str, str]) -> None:
    """An image or a link carries no Origin; with `/openai/unloadall` behind GET it must not pass either."""
    server.chat("fake", max_tokens=1)
    answer = server.http.get("/openai/unloadall", headers=headers)
    assert answer.status_code == 403
    assert server.loaded("fake")


def test_a_page_of_the_service_itself_and_an_address_bar_are_let_in(server: Server) -> None:
    assert server.http.get("/health", headers={"Origin": server.url}).status_code == 200
    assert server.http.get("/health", headers={"Sec-Fetch-Site": "none"}).status_code == 200


# Workers that fail


@pytest.mark.parametrize("fault", ["crash_at", "bad_bytes_at"])
def test_a_stream_that_breaks_ends_with_an_error_event(server: Server, fault: str) -> None:
    """What came before stays whole, and a client that reads to `[DONE]` is not left waiting."""
    name = server.fake(f"stream-{fault}".replace("_", "-"), **{fault: 3})
    with server.streaming(name, max_tokens=10) as lines:
        seen = events(lines)
    assert seen[-1] == "[DONE]"
    assert seen[-2]["error"]["code"] == "worker_crashed"
    assert [e["choices"][0]["delta"]["content"] for e in seen[:-2]] == ["token", " token", " token"]
    assert text_of(server.chat(name, max_tokens=2)) == "token token"


def test_a_plain_answer_that_breaks_is_an_error_that_clients_repeat(server: Server) -> None:
    name = server.fake("crash-plain", crash_at=3)
    error = server.error(name, 503, max_tokens=10)
    assert error["code"] == "worker_crashed"
    assert text_of(server.chat(name, max_tokens=2)) == "token token"


def test_a_crash_takes_one_model_and_no_other(server: Server) -> None:
    crashing = server.fake("crash-beside", crash_at=2)
    server.chat("fake", max_tokens=1)
    server.post("/foundry/load", {"model": crashing, "retain": True})
    before = server.loaded("fake")
    assert before is not None
    with server.streaming("fake", max_tokens=400) as lines:
        next(lines)
        server.error(crashing, 503, max_tokens=10)
        assert events(lines)[-1] == "[DONE]"
    after = server.loaded("fake")
    assert after is not None
    assert after["pid"] == before["pid"]
    assert server.loaded(crashing) is None


def test_an_engine_that_refuses_a_model_is_quoted(server: Server) -> None:
    name = server.fake("refused", fail_load="the tensor is crooked")
    error = server.error(name, 400)
    assert error["code"] == "load_failed"
    assert "the tensor is crooked" in error["message"]
    assert error["hint"] == "foundry service logs refused"
    assert text_of(server.chat("fake", max_tokens=1)) == "token"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_generation(server: Server, stream: bool) -> None:
    name = server.fake(f"endless-{stream}".lower(), tokens_per_second=200)
    server.post("/foundry/load", {"model": name})
    body = {"model": name, "messages": HELLO, "max_tokens": 2000, "stream": stream}
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=0.5) as leaving:
        if stream:
            with leaving.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                leaving.post("/v1/chat/completions", json=body)
    wait_until(lambda: server.counters(name)["running"] == 0, 2, "the worker still answers")
    assert 0 < server.counters(name)["generated"] < 1000
    loaded = server.loaded(name)
    assert loaded is not None
    assert loaded["requests_running"] == 0


def test_a_worker_that_hangs_is_let_go_by_a_client_that_leaves(server: Server) -> None:
    name = server.fake("hangs", hang_at=2)
    with server.streaming(name, max_tokens=10) as lines:
        assert len([next(lines), next(lines)]) == 2
    wait_until(lambda: (server.loaded(name) or {})["requests_running"] == 0, 2, "the request is still counted")
    server.unload(name)
    assert server.loaded(name) is None


@pytest.mark.parametrize("prompt", ["one two", ["one", "two"], [1, 2, 3], [[1, 2], [3]]])
def test_plain_completions_take_every_form_of_prompt(server: Server, prompt: object) -> None:
    """The type of this field was once one that the decoder refuses to decode anything into."""
    answer = server.post("/v1/completions", {"model": "fake", "prompt": prompt, "max_tokens": 2})
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": 5}, "prompt"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": "x", "logprobs": True}, "logprobs"),
        ("/v1/embeddings", {"input": {}}, "input"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/chat/completions/tokenizer/encode/count", {"messages": "x"}, "messages"),
    ],
)
def test_the_other_endpoints_name_the_field_too(server: Server, path: str, fields: dict[str, Any], param: str) -> None:
    assert server.post(path, {"model": "fake", **fields}, 400)["error"]["param"] == param

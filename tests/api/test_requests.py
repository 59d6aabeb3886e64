"""What is known of a request, told to observers at its end; its id; and its body as the engine gets it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from starlette.types import ASGIApp

from api.server import HELLO, Server
from localfoundry import config
from localfoundry.access.bind import Bind
from localfoundry.api import abilities, requests
from localfoundry.api.app import create_app
from localfoundry.api.exchange import Exchange
from localfoundry.api.gate import Gate
from localfoundry.api.requests import ChatRequest, CompletionRequest, for_engine, parse
from localfoundry.api.usage import of_events
from localfoundry.catalog.lookup import Catalog
from localfoundry.engines.base import Endpoint
from localfoundry.errors import InvalidRequest
from localfoundry.service.service import Service
from localfoundry.store.store import Store

_CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("sent", ["abc-1._Z", "x" * 128])
def test_a_clients_request_id_is_kept_where_it_is_sane(server: Server, sent: str) -> None:
    answer = server.http.post(_CHAT, json={}, headers={"X-Request-Id": sent})
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "a\tb", "<script>"])
def test_a_request_id_that_is_not_sane_is_replaced(server: Server, sent: str) -> None:
    answer = server.http.get("/nothing", headers={"X-Request-Id": sent})
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert len(answer.headers["x-request-id"]) == 16


def _through(home: Path, switches: dict[str, object], *bodies: dict[str, Any]) -> list[Exchange]:
    """The exchanges of some chat requests, sent through an application with an observer."""
    from localfoundry.sources.resolve import resolve
    from localfoundry.store.pull import pull

    source = home / "observed.fake.json"
    source.write_text(json.dumps(switches))

    async def work() -> list[Exchange]:
        settings = config.load()
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        store = Store(settings.models_dir)
        await pull(store, await resolve(str(source), settings=settings))
        sockets = home / "s"
        sockets.mkdir()
        service = Service(settings, Catalog.load(), store, sockets)
        seen: list[Exchange] = []
        gate = Gate(settings, Bind("127.0.0.1", 1, False, False, False))
        app = create_app(service, lambda: None, [seen.append], gate=gate)
        for body in bodies:
            await _send(app, {"model": "observed", "messages": HELLO, **body})
        await service.close()
        return seen

    return asyncio.run(work())


async def _send(app: ASGIApp, body: dict[str, Any]) -> None:
    """One request; with `leave` in its body the client goes away at the first part of the answer."""
    data = [json.dumps(body).encode()]
    gone = asyncio.Event()

    async def receive() -> Any:
        if data:
            return {"type": "http.request", "body": data.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and (body.get("leave") or not message.get("more_body")):
            gone.set()

    scope = {"type": "http", "method": "POST", "path": _CHAT, "query_string": b"", "headers": [(b"host", b"localhost")]}
    await app(scope, receive, send)


def test_a_client_that_left_is_known_as_such(isolated: Path) -> None:
    body = {"stream": True, "max_tokens": 500, "leave": True}
    (one,) = _through(isolated, {"tokens_per_second": 50}, body)
    assert (one.status, one.outcome, one.model) == (200, "cancelled", "observed:1")
    assert one.first is not None
    assert one.completion_tokens is None


def test_tokens_and_times_are_known_at_the_end(isolated: Path) -> None:
    seen = _through(
        isolated,
        {"tokens_per_second": 100},
        {"max_tokens": 5},
        {"max_tokens": 5, "stream": True},
        {"max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}},
    )
    assert [one.stream for one in seen] == [False, True, True]
    for one in seen:
        assert (one.status, one.outcome, one.model) == (200, "ok", "observed:1")
        assert (one.prompt_tokens, one.cached_tokens, one.completion_tokens) == (3, 0, 5)
        assert one.granted is not None
        assert one.first is not None
        assert one.last is not None
        assert one.ended is not None
        assert one.arrived <= one.granted < one.first < one.last <= one.ended
        assert one.last - one.first >= 0.03, "four tokens at 100 a second lie between"


def test_what_failed_is_known_too(isolated: Path) -> None:
    broken, wrong = _through(isolated, {"crash_at": 2}, {"stream": True, "max_tokens": 5}, {"temperature": 9})
    assert (broken.status, broken.outcome, broken.completion_tokens) == (200, "worker_crashed", None)
    assert (wrong.status, wrong.outcome, wrong.model) == (400, "invalid_request", None)


def _asked(**fields: object) -> tuple[bytes, requests.Asked]:
    kind = CompletionRequest if "prompt" in fields else ChatRequest
    body = {"model": "m"} | ({} if "prompt" in fields else {"messages": HELLO}) | fields
    data = json.dumps(body).encode()
    return data, for_engine(data, parse(data, kind))


def test_a_streams_body_goes_to_the_engine_as_it_is() -> None:
    data, asked = _asked(stream=True, temperature=0.5, anything={"of": "the client's"})
    assert asked.body is data


def test_a_plain_answer_is_asked_for_as_a_stream_and_nothing_else_changes() -> None:
    data, asked = _asked(max_tokens=3, anything=[1, {"x": None}])
    expected = json.loads(data) | {"stream": True, "stream_options": {"include_usage": True}}
    assert json.loads(asked.body) == expected


def test_a_tool_choice_that_names_a_function_leaves_only_that_tool() -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {"x": name}}} for name in "abc"]
    _, asked = _asked(stream=True, tools=tools, tool_choice={"type": "function", "function": {"name": "b"}})
    body = json.loads(asked.body)
    assert body["tools"] == [tools[1]]
    assert body["tool_choice"] == "required"
    assert asked.tools


@pytest.mark.parametrize(
    ("fields", "choices", "answers"),
    [
        ({}, 1, 1),
        ({"n": 3}, 3, 3),
        ({"prompt": "a"}, 1, 1),
        ({"prompt": ["a", "b"]}, 1, 2),
        ({"prompt": [1, 2]}, 1, 1),
        ({"prompt": [[1], [2], [3]], "n": 2}, 2, 6),
    ],
)
def test_answers_are_counted(fields: dict[str, object], choices: int, answers: int) -> None:
    _, asked = _asked(**fields)
    assert (asked.choices, asked.answers, asked.own_usage) == (choices, answers, answers > 1)


def test_tokens_of_several_answers_are_added_and_their_prompt_counted_once() -> None:
    block = b'data: {"timings":{"cache_n":1,"prompt_n":4,"predicted_n":3},"usage":{"completion_tokens":3}}\n\n'
    counted = of_events([block, block], choices=2, answers=2)
    assert counted is not None
    assert (counted.prompt, counted.cached, counted.completion) == (5, 1, 6)


@pytest.mark.parametrize("block", [b"data: {broken\n\n", b'data: {"usage":null}\n\n', b'data: {"usage":[1]}\n\n', b""])
def test_tokens_that_are_not_told_are_not_known(block: bytes) -> None:
    assert of_events([block]) is None


def test_tools_are_refused_where_the_template_has_no_place_for_them(server: Server) -> None:
    name = server.fake("toolless", tools=False)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert server.error(name, 400, tools=tools)["param"] == "tools"
    assert server.chat(name, tools=tools, tool_choice="none", max_tokens=1)
    assert server.chat("fake", tools=tools, max_tokens=1)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/v1/completions", {"prompt": "x", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "x", "echo": True, "max_tokens": 0, "logprobs": 0}, "echo"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ("/v1/embeddings", {"input": "x", "dimensions": 3}, "dimensions"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(
    server: Server, path: str, fields: dict[str, object], param: str
) -> None:
    assert server.post(path, {"model": "fake", **fields}, 400)["error"]["param"] == param


@pytest.mark.parametrize(
    ("scoring", "next_step"),
    [(None, "models.m.engine openvino"), (("--prefix-cache", "NO"), 'models.m.engineArguments "--prefix-cache NO"')],
)
async def test_each_refusal_of_echo_leads_one_step_on(scoring: tuple[str, ...] | None, next_step: str) -> None:
    model = Mock(id="m:1", engine=Mock(scoring=scoring))
    model.manifest.alias, model.worker.endpoint = "m", Endpoint("/nowhere")
    with pytest.raises(InvalidRequest) as refused:
        await abilities.check_echo(model)
    assert refused.value.hint == f"foundry config set {next_step}"

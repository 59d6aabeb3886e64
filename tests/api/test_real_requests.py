"""What is asked of the real engine comes through as it was asked: fields, counts, and many answers at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.server import Server, events, text_of
from localfoundry.store.manifest import Manifest

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("starter")]

ALTERNATIVES = pytest.mark.engines("llama.cpp")  # the only one that tells the likeliest other tokens
STARTER = "smollm2-135m"
CONTEXT = 512
_CACHE = Path(__file__).parents[2] / ".cache" / "test-models"
SKY: Any = [{"role": "user", "content": "In one short sentence: why is the sky blue?"}]
_FIXED = {"temperature": 0, "seed": 1, "cache_prompt": False}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"reason": {"type": "string", "maxLength": 10}},
                "required": ["reason"],
            },
        },
    }
    for name in ("explain", "refuse")
]
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "colour",
        "schema": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def real(
    engine: str, starter_store: Path, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    made = Server(
        tmp_path_factory.mktemp("real"), FOUNDRY_CONTEXT_LENGTH=CONTEXT, FOUNDRY_PARALLEL=8, FOUNDRY_ENGINE=engine
    )
    made.has(starter_store)
    made.start()
    made.http.timeout = 100
    made.chat(STARTER, max_tokens=1)
    loaded = made.loaded(STARTER)
    assert loaded is not None and loaded["engine_name"] == engine, "another engine ran: the suite would say nothing"
    yield made
    made.stop()


def _worker(real: Server) -> httpx2.Client:
    loaded = real.loaded(STARTER)
    assert loaded is not None
    return httpx2.Client(
        transport=httpx2.HTTPTransport(uds=loaded["socket"]), base_url="http://worker", timeout=60, trust_env=False
    )


def _events_of(client: httpx2.Client, path: str, body: dict[str, Any]) -> list[Any]:
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        return [_without_changing(event) for event in events(line for line in answer.iter_lines() if line)]


def _without_changing(event: Any) -> Any:
    if isinstance(event, dict):
        for key in ("id", "created", "timings"):
            event.pop(key, None)
        for choice in event["choices"]:
            for call in choice.get("delta", {}).get("tool_calls", []):
                call.pop("id", None)
    return event


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 12}),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 12, "temperature": 1, "seed": 7}),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 40, "stop": ["blue", "."]}),
        pytest.param(
            "/v1/chat/completions",
            {"messages": SKY, "max_tokens": 4, "logprobs": True, "top_logprobs": 2},
            marks=ALTERNATIVES,
        ),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 4, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 30, "response_format": _SCHEMA}),
        pytest.param("/v1/completions", {"prompt": "The sky is", "max_tokens": 4, "logprobs": 2}, marks=ALTERNATIVES),
    ],
    ids=["chat", "seed", "stop", "logprobs", "usage", "schema", "completion"],
)
def test_a_stream_is_what_the_engine_says_itself(real: Server, path: str, fields: dict[str, Any]) -> None:
    body = {"model": STARTER, "stream": True, **_FIXED, **fields}
    with _worker(real) as worker:
        own = _events_of(worker, path, body)
    assert _events_of(real.http, path, body) == own
    assert own[-1] == "[DONE]"
    assert len(own) > 3


def test_a_schema_is_kept(real: Server) -> None:
    answer = json.loads(text_of(real.chat(STARTER, messages=SKY, max_tokens=30, response_format=_SCHEMA)))
    assert answer["colour"] in ("red", "blue")


def test_tools_for_a_template_that_has_no_place_for_them_are_refused(real: Server) -> None:
    """llama.cpp drops them without a word, and `required` with them."""
    assert real.error(STARTER, 400, tools=_TOOLS, max_tokens=1)["param"] == "tools"
    assert text_of(real.chat(STARTER, tools=_TOOLS, tool_choice="none", max_tokens=1))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "answers"),
    [
        ("/v1/chat/completions", {"messages": SKY, "n": 3}, 3),
        ("/v1/completions", {"prompt": ["The sky is", "Grass, on the other hand, is"]}, 2),
    ],
    ids=["n", "prompts"],
)
def test_usage_counts_every_answer(real: Server, path: str, fields: dict[str, Any], answers: int, stream: bool) -> None:
    """llama.cpp's own counts one of them."""
    body = {"model": STARTER, "max_tokens": 5, "ignore_eos": True, **_FIXED, **fields}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        told = _events_of(real.http, path, body)
        assert told[-1] == "[DONE]"
        assert told[-2]["choices"] == []
        usage = told[-2]["usage"]
    else:
        usage = real.post(path, body)["usage"]
    assert usage["completion_tokens"] == 5 * answers
    singles = fields.get("prompt", [None])
    expected = 0
    for prompt in singles:
        one = {**body, "max_tokens": 1, "stream": False, "n": 1} | ({"prompt": prompt} if prompt else {})
        expected += real.post(path, one)["usage"]["prompt_tokens"]
    assert usage["prompt_tokens"] == expected
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_are_told(real: Server, stream: bool) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": "count " * 60}], "max_tokens": 1}
    for _ in range(2):
        if stream:
            with real.streaming(STARTER, **fields, stream_options={"include_usage": True}) as lines:
                usage = events(lines)[-2]["usage"]
        else:
            usage = real.chat(STARTER, **fields)["usage"]
    assert 60 < usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format"),
        ({"tool_choice": "sometimes", "tools": _TOOLS}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "sing"}}, "tools": _TOOLS}, "tool_choice"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"seed": 10**30}, "seed"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_the_engine_cannot_do_is_refused_by_name(real: Server, fields: dict[str, Any], param: str) -> None:
    """Each of these it ignored, took for something else, or answered with a 500."""
    error = real.error(STARTER, 400, **{"max_tokens": 1, **fields})
    assert error["param"].startswith(param)


def test_more_choices_than_can_run_are_refused(real: Server) -> None:
    assert "n" in real.error(STARTER, 400, n=9, max_tokens=1)["message"]


# The context


def test_answers_that_together_need_more_than_the_context_are_all_given(real: Server, engine: str) -> None:
    """Three prompts of half the context each. llama.cpp ends all of them; each would fit alone, and is answered."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> Any:
        long = [{"role": "user", "content": f"word{number} " + "word " * 170}]
        return real.chat(STARTER, messages=long, max_tokens=3, ignore_eos=True)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(one, range(3)))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [3, 3, 3]
    assert sum(answer["usage"]["prompt_tokens"] for answer in answers) > CONTEXT, "all would have fitted together"
    if engine == "llama.cpp":  # the others keep a request waiting until there is room
        assert "repeated alone" in (real.settings.log_dir / "service.log").read_text()


def test_max_tokens_beyond_the_context_ends_there_and_says_so(real: Server) -> None:
    body = {"model": STARTER, "prompt": "word " * (CONTEXT - 20), "max_tokens": 10**6, "ignore_eos": True}
    answer = real.post("/v1/completions", body)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert CONTEXT - 2 <= answer["usage"]["total_tokens"] <= CONTEXT + 1


def test_a_long_prompt_of_a_plain_completion_is_refused_with_counts(real: Server) -> None:
    error = real.post("/v1/completions", {"model": STARTER, "prompt": "word " * 700, "max_tokens": 1}, 400)["error"]
    assert error["code"] == "context_length_exceeded"
    assert (error["prompt_tokens"], error["context_length"]) == (701, CONTEXT)


# Many at once


async def test_32_streams_at_once_are_all_answered_and_none_mixed_up(real: Server) -> None:
    """Each asks for another number of tokens after a prompt of another length, and gets exactly these."""

    async def one(client: httpx2.AsyncClient, number: int) -> tuple[int, int, int]:
        body = {
            "model": STARTER, "prompt": [7] * (number + 3), "max_tokens": number // 2 + 1, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            told = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
        assert told[-1] == "[DONE]"
        seen = [json.loads(line) for line in told[:-1]]
        assert len({event["id"] for event in seen}) == 1
        usage = seen[-1]["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"], len(seen)

    async with httpx2.AsyncClient(base_url=real.url, timeout=100, trust_env=False) as client:
        counted = await asyncio.gather(*(one(client, number) for number in range(32)))
    assert [(prompt, completion) for prompt, completion, _ in counted] == [(n + 3, n // 2 + 1) for n in range(32)]

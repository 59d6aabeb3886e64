"""The HTTP layer that our own workers share, over a backend whose answers are known."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from localfoundry.workers import serving
from localfoundry.workers.generation import Progress
from workers.scripted import TOOLS, Scripted, served

_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_TOOL = {"type": "function", "function": {"name": "look", "parameters": _SCHEMA}}


@pytest.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[tuple[Scripted, httpx2.AsyncClient]]:
    backend = Scripted()
    async with served(backend, tmp_path) as client:
        yield backend, client


def chat(words: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], **fields}


async def post(client: httpx2.AsyncClient, path: str, body: Any, status: int = 200) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def events_of(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    async with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        lines = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def content(events: list[Any]) -> str:
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e != "[DONE]" and e["choices"])


async def until(what: Any) -> None:
    """Wait for something that other tasks of this loop bring about."""
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0)


# Texts


async def test_a_thousand_multilingual_texts_stream_as_they_are_answered_plainly(tmp_path: Path) -> None:
    """Every token is one byte, so that every character outside ASCII is cut; marks of stop sequences among them."""
    draw = random.Random(7)
    scripts = [
        (32, 126),
        (192, 591),
        (0x370, 0x5EA),
        (0x900, 0x97F),
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0x1F300, 0x1F6FF),
    ]
    texts = [
        "a" + "".join(chr(draw.randint(*draw.choice(scripts))) for _ in range(draw.randint(1, 40))) for _ in range(1000)
    ]
    async with served(Scripted(parallel=50, context=4000), tmp_path) as client:

        async def some(texts: list[str]) -> None:
            body = {"prompt": texts, "stop": ["zz", texts[0][len(texts[0]) // 2 :] + "never"], "max_tokens": 1000}
            plain = await post(client, "/v1/completions", body)
            streamed = [""] * len(texts)
            for event in (await events_of(client, "/v1/completions", body))[:-1]:
                streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
            expected = [text.partition("zz")[0] for text in texts]
            assert streamed == [choice["text"] for choice in plain["choices"]] == expected

        for first in range(0, 1000, 50):
            await some(texts[first : first + 50])


@pytest.mark.parametrize(
    ("answer", "stop", "expected"),
    [
        ("one two three", "two", "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", "aab", "a"),
        ("ababac", "abac", "ab"),
        ("almost sto", "stop", "almost sto"),
        ("før ænd", "ænd", "før "),
        ("stop", "stop", ""),
    ],
)
async def test_stop_sequences_never_get_out(tmp_path: Path, answer: str, stop: Any, expected: str) -> None:
    backend = Scripted(answer=lambda _: answer)
    async with served(backend, tmp_path) as client:
        events = await events_of(client, "/v1/chat/completions", chat("x", stop=stop))
        assert content(events) == expected
        assert events[-2]["choices"][0]["finish_reason"] == "stop"
        plain = await post(client, "/v1/completions", {"prompt": "x", "stop": stop})
        assert (plain["choices"][0]["text"], plain["choices"][0]["finish_reason"]) == (expected, "stop")
        stopped = expected != answer
        assert len(backend.cancelled) == (2 if stopped else 0), "the backend went on, or was stopped without reason"


async def test_bytes_that_never_become_a_character_are_replaced(tmp_path: Path) -> None:
    backend = Scripted()
    async with served(backend, tmp_path) as client:
        answer = await post(client, "/v1/chat/completions", chat("ab世", max_tokens=3))
        assert answer["choices"][0]["message"]["content"] == "ab�"
        assert answer["choices"][0]["finish_reason"] == "length"


async def test_reasoning_is_told_from_the_answer(tmp_path: Path) -> None:
    thought = "<think>\nlet me see\n</think>\n\nit is blue"
    backend = Scripted(answer=lambda _: thought, template="{# <think> #}" + Scripted().template)  # type: ignore[operator]
    async with served(backend, tmp_path) as client:
        message = (await post(client, "/v1/chat/completions", chat("x")))["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("let me see", "it is blue")
        events = await events_of(client, "/v1/chat/completions", chat("x"))
        thoughts = [e["choices"][0]["delta"].get("reasoning_content") or "" for e in events[:-1]]
        assert ("".join(thoughts), content(events)) == ("let me see", "it is blue")


# Tools


@pytest.mark.parametrize(
    ("said", "calls", "text"),
    [
        ('<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>', [("look", {"a": 1})], None),
        ('I look. <tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>', [("look", {"a": 1})], "I look. "),
        ('<tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>\n'
         '<tool_call>{"name": "look", "arguments": {"a": 2}}</tool_call>',
         [("look", {"a": 1}), ("look", {"a": 2})], None),
        ("<tool_call>nonsense</tool_call>", [], "<tool_call>nonsense</tool_call>"),
        ('<tool_call>{"name": "other", "arguments": {}}</tool_call>', [],
         '<tool_call>{"name": "other", "arguments": {}}</tool_call>'),
        ("a < b", [], "a < b"),
    ],
)  # fmt: skip
async def test_calls_of_tools_are_found(tmp_path: Path, said: str, calls: list[Any], text: str | None) -> None:
    async with served(Scripted(answer=lambda _: said, template=TOOLS), tmp_path) as client:
        body = chat("x", tools=[_TOOL])
        choice = (await post(client, "/v1/chat/completions", body))["choices"][0]
        found = [one["function"] for one in choice["message"].get("tool_calls", [])]
        assert [(one["name"], json.loads(one["arguments"])) for one in found] == calls
        assert choice["message"]["content"] == text
        assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
        events = await events_of(client, "/v1/chat/completions", body)
        streamed = [call for e in events[:-1] for call in e["choices"][0]["delta"].get("tool_calls", [])]
        assert [call["index"] for call in streamed] == list(range(len(calls)))
        assert content(events) == (text or "")
        none = await post(client, "/v1/chat/completions", chat("x", tools=[_TOOL], tool_choice="none"))
        assert none["choices"][0]["message"]["content"] == said


async def test_a_call_of_the_llama_3_kind_is_found(tmp_path: Path) -> None:
    backend = Scripted(
        answer=lambda _: '{"name": "look", "parameters": {"a": 1}}', template=TOOLS.replace("<tool_call>", "")
    )
    async with served(backend, tmp_path) as client:
        choice = (await post(client, "/v1/chat/completions", chat("x", tools=[_TOOL])))["choices"][0]
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"a": 1}'}


async def test_a_tool_that_must_be_called_is_a_grammar(tmp_path: Path) -> None:
    backend = Scripted(answer=lambda _: "x", template=TOOLS)
    async with served(backend, tmp_path) as client:
        for choice in ("required", {"type": "function", "function": {"name": "look"}}):
            await post(client, "/v1/chat/completions", chat("x", tools=[_TOOL], tool_choice=choice))
        assert len(backend.started) == 2
        for sampling in backend.started.values():
            assert sampling.grammar is not None
            assert (sampling.grammar.before, sampling.grammar.after) == ("<tool_call>\n", "\n</tool_call>")
            schema = json.loads(sampling.grammar.schema)
            assert schema["properties"] == {"name": {"const": "look"}, "arguments": _SCHEMA}


async def test_tools_without_a_place_in_the_template_are_refused(tiny: Any) -> None:
    _, client = tiny
    error = (await post(client, "/v1/chat/completions", chat("x", tools=[_TOOL]), 400))["error"]
    assert error["message"].startswith("tools:")
    assert (await post(client, "/v1/chat/completions", chat("x", tools=[_TOOL], tool_choice="none")))["choices"]
    assert (await client.get("/props")).json()["chat_template_caps"] == {"supports_tools": False}


# What is refused


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"top_k": 5}, "top_k"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"mirostat": 2}, "mirostat"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"n": 5}, "n: 5"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "schema.not|format.not"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nosuch"}}}}, "type"),
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"messages": [{"role": "user", "content": ""}], "temperature": "hot"}, "temperature"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
async def test_what_the_backend_lacks_is_refused_by_name(tiny: Any, fields: dict[str, Any], word: str) -> None:
    import re

    backend, client = tiny
    error = (await post(client, "/v1/chat/completions", chat("x", **fields), 400))["error"]
    assert re.search(word, error["message"]), error["message"]
    assert not backend.started


async def test_options_that_ask_for_nothing_are_taken(tiny: Any) -> None:
    _, client = tiny
    asking_nothing = {"top_k": 0, "top_p": 1, "logit_bias": {}, "presence_penalty": 0, "typical_p": 1.0, "grammar": "",
                      "mirostat": 0, "never_heard_of": 1, "logprobs": None, "stop": None, "n": 1}  # fmt: skip
    assert (await post(client, "/v1/chat/completions", chat("x", **asking_nothing)))["choices"]


async def test_what_the_backend_itself_refuses_is_a_400(tiny: Any) -> None:
    _, client = tiny
    error = (await post(client, "/v1/completions", {"prompt": "!no"}, 400))["error"]
    assert error["message"] == "this prompt is refused"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"messages": []}',
        b'{"messages": "x"}',
        b"\xff",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
async def test_bodies_that_cannot_be_read(tiny: Any, body: bytes) -> None:
    _, client = tiny
    answer = await client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_tokens_that_do_not_exist_are_refused(tiny: Any) -> None:
    _, client = tiny
    for token in (-1, 258, 2**40):
        error = (await post(client, "/v1/completions", {"prompt": [1, token]}, 400))["error"]
        assert str(token) in error["message"]


# The context


async def test_a_prompt_as_long_as_the_context_is_refused_with_counts(tiny: Any) -> None:
    backend, client = tiny
    error = (await post(client, "/v1/completions", {"prompt": "x" * 2000}, 400))["error"]
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (2000, 2000)
    assert not backend.started
    fits = await post(client, "/v1/completions", {"prompt": "x" * 1999})
    assert (fits["usage"]["completion_tokens"], fits["choices"][0]["finish_reason"]) == (1, "length")


async def test_memory_that_is_full_is_told_in_the_words_that_the_service_knows(tiny: Any) -> None:
    backend, client = tiny
    backend.room = 50
    error = (await post(client, "/v1/completions", {"prompt": "x" * 60}, 500))["error"]
    assert error["message"].startswith("Context size has been exceeded")
    events = []
    async with client.stream("POST", "/v1/completions", json={"prompt": "x" * 40, "stream": True}) as answer:
        events = [line async for line in answer.aiter_lines() if line]
    assert events[-1].startswith('data: {"error"'), "and a stream ends with it"


# Counts, choices, log probabilities


async def test_usage_and_timings(tiny: Any) -> None:
    _, client = tiny
    plain = await post(client, "/v1/completions", {"prompt": "four"})
    expected = {
        "prompt_tokens": 4,
        "completion_tokens": 5,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert plain["usage"] == expected
    events = await events_of(client, "/v1/completions", {"prompt": "four"})
    assert events[-2]["timings"]["predicted_n"] == 5
    assert not any("usage" in event for event in events[:-1])
    events = await events_of(client, "/v1/completions", {"prompt": "four", "stream_options": {"include_usage": True}})
    assert (events[-2]["usage"], events[-2]["choices"], events[-1]) == (expected, [], "[DONE]")


async def test_choices_of_one_prompt_have_their_own_seeds_and_timings(tiny: Any) -> None:
    backend, client = tiny
    body = {"prompt": ["ab", "cde"], "n": 3, "seed": 5}
    events = await events_of(client, "/v1/completions", body)
    last = [event for event in events[:-1] if "timings" in event]
    assert sorted(event["choices"][0]["index"] for event in last) == list(range(6))
    texts = ["".join(e["choices"][0]["text"] for e in events[:-1] if e["choices"][0]["index"] == n) for n in range(6)]
    assert texts == ["ab"] * 3 + ["cde"] * 3
    assert sorted(sampling.seed for sampling in backend.started.values()) == [5, 5, 6, 6, 7, 7]
    plain = await post(client, "/v1/completions", body)
    assert plain["usage"]["prompt_tokens"] == 5
    assert plain["usage"]["completion_tokens"] == 3 * 3 + 3 * 4


async def test_without_a_seed_each_request_has_another(tiny: Any) -> None:
    backend, client = tiny
    for _ in range(3):
        await post(client, "/v1/completions", {"prompt": "x"})
    assert len({sampling.seed for sampling in backend.started.values()}) == 3


async def test_log_probabilities_of_the_chosen_tokens(tiny: Any) -> None:
    _, client = tiny
    body = chat("hi", logprobs=True)
    told = (await post(client, "/v1/chat/completions", body))["choices"][0]["logprobs"]["content"]
    assert [(one["token"], one["logprob"], one["top_logprobs"]) for one in told] == [("h", -0.5, []), ("i", -0.5, [])]
    events = await events_of(client, "/v1/chat/completions", body)
    streamed = [one for e in events[:-1] for one in (e["choices"][0].get("logprobs") or {"content": []})["content"]]
    assert streamed == told


# Prompts that are scored

SCORED = {"prompt": [104, 195, 184, 105], "echo": True, "max_tokens": 0, "logprobs": 0}


@pytest.fixture
async def scorer(tmp_path: Path) -> AsyncIterator[tuple[Scripted, httpx2.AsyncClient]]:
    backend = Scripted(context=8, options=frozenset({"logprobs", "echo"}))
    async with served(backend, tmp_path) as client:
        yield backend, client


async def test_a_prompt_is_scored_and_not_answered(scorer: Any) -> None:
    _, client = scorer
    answer = await post(client, "/v1/completions", SCORED)
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("høi", "length")
    told = [(one["id"], one["logprob"]) for one in choice["logprobs"]["content"]]
    assert told == [(104, None), (195, -1.0), (184, -2.0), (105, -3.0)], "the first token follows nothing"
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 0)
    events = await events_of(client, "/v1/completions", SCORED)
    assert events[-1] == "[DONE]" and events[0]["choices"][0]["logprobs"] == choice["logprobs"]
    assert (await client.get("/props")).json()["scores_prompts"] is True


async def test_several_prompts_are_scored_and_one_may_fill_the_context(scorer: Any) -> None:
    _, client = scorer
    answer = await post(client, "/v1/completions", {**SCORED, "prompt": [[97], [98] * 8]})
    assert [len(choice["logprobs"]["content"]) for choice in answer["choices"]] == [1, 8]
    error = (await post(client, "/v1/completions", {**SCORED, "prompt": [98] * 9}, 400))["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9, 8)


@pytest.mark.parametrize(
    "changed", [{"max_tokens": 1}, {"max_tokens": None}, {"logprobs": 3}, {"logprobs": None}, {"n": 2}]
)
async def test_an_answer_behind_the_scored_prompt_is_refused(scorer: Any, changed: dict[str, Any]) -> None:
    backend, client = scorer
    assert "echo" in (await post(client, "/v1/completions", {**SCORED, **changed}, 400))["error"]["message"]
    assert not backend.started


async def test_a_prompt_is_scored_while_nothing_else_runs(tmp_path: Path) -> None:
    backend = Alone(options=frozenset({"logprobs", "echo"}))
    async with served(backend, tmp_path) as client:
        bodies = [SCORED if n % 4 == 0 else {"prompt": f"number {n}"} for n in range(16)]
        answers = await asyncio.gather(*(post(client, "/v1/completions", body) for body in bodies))
    assert [bool(answer["choices"][0]["logprobs"]) for answer in answers] == [n % 4 == 0 for n in range(16)]
    assert backend.most > 1, "the others run together"


class Alone(Scripted):
    """Fails where a prompt would be scored beside other work."""

    most = 0

    def step(self) -> list[Progress]:
        kinds = [run.sampling.echo for run in self._runs.values()]
        assert not any(kinds) or len(kinds) == 1
        self.most = max(self.most, len(kinds))
        return super().step()


async def test_a_backend_that_does_not_score_refuses_by_name(tiny: Any) -> None:
    _, client = tiny
    assert "echo: the scripted engine" in (await post(client, "/v1/completions", SCORED, 400))["error"]["message"]
    assert "echo" in (await post(client, "/v1/chat/completions", chat("x", echo=True), 400))["error"]["message"]
    assert (await post(client, "/v1/completions", {"prompt": "x", "echo": False}))["choices"][0]["text"] == "x"
    assert (await client.get("/props")).json()["scores_prompts"] is False


# Many at once, and those that go


async def test_more_requests_than_places_wait_and_are_all_answered(tiny: Any) -> None:
    _, client = tiny
    answers = await asyncio.gather(*(post(client, "/v1/completions", {"prompt": f"number {n}"}) for n in range(20)))
    assert [answer["choices"][0]["text"] for answer in answers] == [f"number {n}" for n in range(20)]


async def test_a_client_that_goes_away_is_stopped_before_the_next_token(tmp_path: Path) -> None:
    backend = Scripted(parallel=1, answer=lambda _: "x" * 1900)
    async with served(backend, tmp_path) as client:
        async with client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            await anext(answer.aiter_lines())
            waiting = asyncio.create_task(post(client, "/v1/completions", {"prompt": "y"}))
            await until(lambda: backend.steps > 5)
        await until(lambda: backend.cancelled == [1])
        assert backend.steps < 1500, "it was not stopped: it came to its end"
        waiting.cancel()
        await until(lambda: not backend.busy)
        assert (await post(client, "/v1/completions", {"prompt": "z", "max_tokens": 1}))["choices"]
        slots = (await client.get("/slots")).json()
        assert [slot["is_processing"] for slot in slots] == [False]


async def test_a_library_that_breaks_ends_every_answer_and_then_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Exception] = []
    monkeypatch.setattr(serving, "_end_soon", ended.append)
    backend = Scripted(answer=lambda _: "x" * 100)
    backend.break_at = 5
    async with served(backend, tmp_path) as client:
        plain = asyncio.create_task(post(client, "/v1/completions", {"prompt": "x"}, 500))
        async with client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        error = json.loads(lines[-1].removeprefix("data: "))["error"]
        assert error["message"] == "the engine failed: the library broke"
        assert (await plain)["error"]["message"] == error["message"]
        assert len(ended) == 1


# Other endpoints


async def test_template_tokens_and_embeddings(tiny: Any) -> None:
    _, client = tiny
    prompt = (await post(client, "/apply-template", chat("hello")))["prompt"]
    assert prompt == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    tokens = (await post(client, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True}))[
        "tokens"
    ]
    usage = (await post(client, "/v1/chat/completions", chat("hello")))["usage"]
    assert len(tokens) == usage["prompt_tokens"]
    answer = await post(client, "/v1/embeddings", {"input": ["ab", "c"], "encoding_format": "float"})
    assert [item["embedding"] for item in answer["data"]] == [[2.0, 0.5], [1.0, 0.5]]
    packed = await post(client, "/v1/embeddings", {"input": "ab", "encoding_format": "base64"})
    assert packed["data"][0]["embedding"] == "AAAAQAAAAD8="


async def test_an_answer_that_was_begun_is_gone_on_with(tiny: Any) -> None:
    _, client = tiny
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Once"}]
    prompt = (await post(client, "/apply-template", {"messages": messages}))["prompt"]
    assert prompt.endswith("<|im_start|>assistant\nOnce")


async def test_a_template_that_refuses_is_heard(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}x"
    async with served(Scripted(template=template), tmp_path) as client:
        body = {"messages": [{"role": "system", "content": "x"}]}
        error = (await post(client, "/v1/chat/completions", body, 400))["error"]
        assert "no system here" in error["message"]
    loop = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    async with served(Scripted(template=loop), tmp_path) as client:
        await post(client, "/v1/chat/completions", chat("x"), 400)
    async with served(Scripted(template=None), tmp_path) as client:
        assert "no chat template" in (await post(client, "/v1/chat/completions", chat("x"), 400))["error"]["message"]


async def test_unknown_paths(tiny: Any) -> None:
    _, client = tiny
    assert (await client.get("/nothing")).status_code == 404
    assert (await client.get("/health")).json() == {"status": "ok"}


async def test_over_loopback_the_secret_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from localfoundry.workers import http
    from localfoundry.workers.serving import Serving

    monkeypatch.setenv("FOUNDRY_WORKER_SECRET", "s3cret")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = await http.listen(Serving(Scripted(), "tiny", "x"), None, port)
    async with server, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for secret, status in ((None, 401), ("wrong", 401), ("s3cret", 200)):
            headers = {"Authorization": f"Bearer {secret}"} if secret else {}
            assert (await client.get("/health", headers=headers)).status_code == status

"""Folders of ONNX Runtime GenAI in the service: a small one of random weights, in the real library and process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_onnx
from api.server import Server
from localfoundry.sources.resolve import resolve
from localfoundry.store.pull import pull

ASKED: Any = [{"role": "user", "content": "naïve 東京 🙂"}]


def add(server: Server, folder: Path) -> None:
    async def work() -> None:
        await pull(server.store, await resolve(str(folder), settings=server.settings))

    asyncio.run(work())


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("onnx"), FOUNDRY_CONTEXT_LENGTH=256)
    add(made, tiny_onnx.write(made.home / "tiny"))
    broken = tiny_onnx.write(made.home / "broken", attention="MultiHeadAttention")
    add(made, broken)
    yield made.start()
    made.stop()


def chat(server: Server, **options: Any) -> Any:
    body = {"model": "tiny", "messages": ASKED, "max_tokens": 40, "seed": 3, **options}
    return server.http.post("/v1/chat/completions", json=body)


def test_a_chat_is_answered_and_the_stream_says_the_same(onnx: Server) -> None:
    """Random weights say random bytes: what is no text becomes replacement characters, the same in both forms."""
    for seed in range(6):
        plain = chat(onnx, seed=seed).json()
        streamed = chat(onnx, seed=seed, stream=True, stream_options={"include_usage": True}).text
        events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        said = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        assert said == plain["choices"][0]["message"]["content"]
        assert plain["usage"]["completion_tokens"] <= 40
        assert events[-1]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    assert events[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_prompt_beyond_the_context_is_refused_with_the_counts(onnx: Server) -> None:
    answer = chat(onnx, messages=[{"role": "user", "content": "x" * 300}])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "256" in error["message"]


def test_an_answer_is_held_to_a_schema(onnx: Server) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    answer = chat(onnx, response_format=form, max_tokens=200, temperature=0.3).json()
    assert json.loads(answer["choices"][0]["message"]["content"])["n"] in (1, 2, 3)


def test_a_graph_that_cannot_be_run_is_refused_in_words(onnx: Server) -> None:
    answer = onnx.http.post("/v1/chat/completions", json={"model": "broken", "messages": ASKED})
    assert 400 <= answer.status_code < 500, answer.text
    assert "no GroupQueryAttention" in answer.text
    assert str(onnx.home) not in answer.text

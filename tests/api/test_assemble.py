"""Plain answers that are put together from streams. That they equal the engine's own is shown in test_real.py."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.api.assemble import assemble
from localfoundry.api.faults import EngineSaid
from localfoundry.errors import EngineError


def _stream(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def _delta(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "id": "x", "choices": [choice]}


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5)), min_size=1))
def test_texts_are_joined_in_order_and_by_choice(pieces: list[tuple[int, str]]) -> None:
    answer = json.loads(assemble(_stream(*(_delta({"content": text}, index) for index, text in pieces))))
    told = {choice["index"]: choice["message"]["content"] for choice in answer["choices"]}
    for index in {index for index, _ in pieces}:
        assert told[index] == "".join(text for i, text in pieces if i == index)
    assert answer["object"] == "chat.completion"


def test_tool_calls_are_merged_by_their_index() -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return _delta({"tool_calls": [{"index": index, **fields}]})

    answer = json.loads(
        assemble(
            _stream(
                _delta({"role": "assistant", "content": None}),
                call(0, id="a", type="function", function={"name": "f", "arguments": '{"x"'}),
                call(0, function={"arguments": ":1}"}),
                call(1, id="b", type="function", function={"name": "g", "arguments": "{}"}),
                _delta({}, finish="tool_calls"),
            )
        )
    )
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


def test_an_error_of_the_engine_is_no_answer() -> None:
    with pytest.raises(EngineSaid) as caught:
        assemble(_stream(_delta({"content": "a"}), {"error": {"code": 500, "message": "out of slots"}}))
    assert caught.value.error["message"] == "out of slots"


def test_what_is_no_json_is_no_answer() -> None:
    with pytest.raises(msgspec.DecodeError):
        assemble(b"data: {broken\n\ndata: [DONE]\n\n")


def test_a_stream_that_is_not_complete_is_no_answer() -> None:
    with pytest.raises(EngineError, match="complete"):
        assemble(_stream(_delta({"content": "a"})).removesuffix(b"data: [DONE]\n\n"))

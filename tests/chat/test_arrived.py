"""What is made of chunks, whichever way a server cuts an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localfoundry.chat.arrived import MAX_CALLS, Arrived
from localfoundry.chat.chunks import CHUNK, WHOLE
from localfoundry.chat.failure import Failure


def told(arrived: Arrived, *deltas: dict[str, Any]) -> Arrived:
    for at, delta in enumerate(deltas, 1):
        arrived.take(CHUNK.decode(json.dumps({"choices": [{"index": 0, "delta": delta}]})), float(at))
    return arrived


def call(name: str, arguments: str, **index: int) -> dict[str, Any]:
    return {**index, "function": {"name": name, "arguments": arguments}}


def test_calls_in_parts_and_calls_in_one_piece_are_the_same() -> None:
    """A whole answer does not number its calls; taken for parts of one, their names ran together."""
    parts = told(
        Arrived(0.0, 9), {"tool_calls": [call("f", "", index=0)]}, {"tool_calls": [call("g", "{}", index=1)]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]},
    )  # fmt: skip
    whole = Arrived(0.0, 9)
    message = {"content": None, "tool_calls": [call("f", '{"x": 1}'), call("g", "{}")]}
    whole.take_whole(WHOLE.decode(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})))
    assert parts.calls == whole.calls == [("f", '{"x": 1}'), ("g", "{}")]
    assert parts.times == [1, 2, 3] and whole.times == [] and whole.in_one_piece and whole.complete


def test_reasoning_is_timed_and_not_kept_and_the_text_is_kept_as_far_as_asked() -> None:
    found = told(Arrived(0.0, 5), {"reasoning": "let me see"}, {"content": "four"}, {"content": "teen"}, {"role": "x"})
    assert (found.text, found.times, found.first_answer) == ("fourt", [1, 2, 3], 2)


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ({"content": "x" * 101}, "longer than 100 characters"),
        ({"reasoning_content": "x" * 101}, "longer than 100 characters"),
        ({"tool_calls": [call("f", "x" * 101)]}, "longer than 100 characters"),
        ({"tool_calls": [call("", "", index=n) for n in range(MAX_CALLS + 1)]}, f"more than {MAX_CALLS} tools"),
    ],
)
def test_an_answer_without_an_end_is_given_up_and_speaks_against_its_prompt_only(
    delta: dict[str, Any], words: str
) -> None:
    with pytest.raises(Failure, match=words) as caught:
        told(Arrived(0.0, 1000, 100), delta)
    assert not caught.value.lasting

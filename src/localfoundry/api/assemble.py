"""A whole answer out of a streamed one.

Engines stop a stream when its connection closes, but llama.cpp's server generates a plain answer to its end, whoever
still waits for it (measured: 1,500 tokens after the client had gone). So the service asks for a stream either way and
puts the plain answer together here. Deltas are merged as the API defines them: texts are joined, lists of log
probabilities are appended, tool calls are merged by their index, anything else is taken from the last one that has it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from localfoundry.api import usage
from localfoundry.api.faults import EngineSaid
from localfoundry.errors import EngineError

_JOINED = frozenset({"content", "reasoning_content", "refusal", "arguments", "text"})
_ABSENT = object()
_OBJECTS = {"chat.completion.chunk": "chat.completion"}


def assemble(stream: bytes, shared: int | None = None) -> bytes:
    """The completion that a whole stream of chunks tells, as JSON.

    shared: the choices of one prompt, where usage is to be counted from the timings of each choice (`usage.py`).
    Raises EngineSaid where it holds an error of the engine's, EngineError where it is not complete, DecodeError.
    """
    if not stream.rstrip().endswith(b"data: [DONE]") and b'data: {"error"' not in stream:
        raise EngineError("the engine ended its answer without saying that it was complete")
    answer: dict[str, Any] = {}
    timings: list[dict[str, Any]] = []
    choices: dict[int, dict[str, Any]] = {}
    for line in stream.split(b"\n"):
        if not line.startswith(b"data: ") or line == b"data: [DONE]":
            continue
        chunk = msgspec.json.decode(line[len(b"data: ") :])
        if "error" in chunk:
            raise EngineSaid(chunk["error"])
        for choice in chunk.pop("choices", []):
            _merge_choice(choices.setdefault(choice.get("index", 0), {}), choice)
        if "timings" in chunk:
            timings.append(chunk["timings"])
        answer |= {key: value for key, value in chunk.items() if value is not None}
    if shared is not None and timings:
        answer["usage"] = usage.of_timings(timings, shared).to_openai()
    answer["object"] = _OBJECTS.get(answer.get("object", ""), answer.get("object"))
    return msgspec.json.encode({"choices": [choices[index] for index in sorted(choices)]} | answer)


def _merge_choice(whole: dict[str, Any], part: dict[str, Any]) -> None:
    part = dict(part)
    delta = part.pop("delta", None)
    logprobs = part.pop("logprobs", _ABSENT)
    _merge(whole, part)
    if delta is not None:
        message = whole.setdefault("message", {"role": "assistant", "content": None})
        calls = delta.pop("tool_calls", None) or []
        _merge(message, delta)
        for call in calls:
            _merge_call(message.setdefault("tool_calls", []), call)
    if isinstance(logprobs, dict):
        whole["logprobs"] = known = whole.get("logprobs") or {}
        for key, values in logprobs.items():
            if isinstance(values, list):
                known.setdefault(key, []).extend(values)
    elif logprobs is None:
        whole.setdefault("logprobs", None)


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if key in _JOINED and isinstance(value, str):
            whole[key] = (whole.get(key) or "") + value
        elif value is not None or key not in whole:
            whole[key] = value


def _merge_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    part = dict(part)
    index = part.pop("index", 0)
    while len(calls) <= index:
        calls.append({})
    function = part.pop("function", None)
    _merge(calls[index], part)
    if function is not None:
        _merge(calls[index].setdefault("function", {}), function)

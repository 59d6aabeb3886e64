"""What a request may not ask for although its types are right: refused by name, because engines would ignore it."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from localfoundry.api.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    Object,
    Sampling,
    Tool,
)
from localfoundry.errors import InvalidRequest


def check(request: Sampling | EmbeddingRequest, max_messages: int) -> None:
    """Raises InvalidRequest with `param`."""
    _check(request, max_messages)


@functools.singledispatch
def _check(request: object, max_messages: int) -> None:
    pass


@_check.register
def _chat(request: ChatRequest, max_messages: int) -> None:
    if len(request.messages) > max_messages:
        message = f"messages: {len(request.messages)} are more than the {max_messages} that are taken"
        raise InvalidRequest(message, param="messages", hint="setting maxMessages")
    for index, one in enumerate(request.messages):
        if isinstance(one.content, list):
            _check_parts(one, index)
    names = [tool.function.name for tool in request.tools or []]
    if request.tool_choice == "required" and not names:
        raise InvalidRequest("tool_choice: required, and there are no tools", param="tool_choice")
    if isinstance(request.tool_choice, Tool) and request.tool_choice.function.name not in names:
        name = request.tool_choice.function.name
        raise InvalidRequest(f"tool_choice: no tool is called {name!r}", param="tool_choice")


def _check_parts(message: Message, index: int) -> None:
    assert isinstance(message.content, list)
    for place, part in enumerate(message.content):
        param = f"messages[{index}].content[{place}]"
        kind = _text(part, "type")
        if kind != "text":
            raise InvalidRequest(f"{param}.type: only text is taken, not {kind or 'nothing'}", param=param)
        if _text(part, "text") is None:
            raise InvalidRequest(f"{param}.text: expected a text", param=param)


def _text(part: Object, key: str) -> str | None:
    try:
        value: Any = msgspec.json.decode(part[key]) if key in part else None
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, str) else None


@_check.register
def _completion(request: CompletionRequest, max_messages: int) -> None:
    if request.suffix:
        raise InvalidRequest("suffix: no engine here fills in the middle", param="suffix")
    if request.echo and (request.max_tokens != 0 or request.logprobs != 0 or (request.n or 1) > 1):
        what = (
            "echo: it is taken with max_tokens 0, logprobs 0 and n 1 only: no engine here repeats a prompt to answer it"
        )
        raise InvalidRequest(what, param="echo")
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequest("max_tokens: expected at least 1; 0 scores a prompt, with echo", param="max_tokens")


@_check.register
def _embedding(request: EmbeddingRequest, max_messages: int) -> None:
    if request.dimensions is not None:
        raise InvalidRequest("dimensions: no engine here shortens embeddings", param="dimensions")

"""What servers send of a chat completion: chunks of a stream, or an answer in one piece. Only what is read is declared.

Fields are those of OpenAI, with what llama.cpp, vLLM and OpenRouter add. A field that is left out
is no reason to lose an answer, so everything may be missing.
"""

from __future__ import annotations

import msgspec


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the server counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Timings(msgspec.Struct):
    """What llama.cpp's server adds to the last chunk."""

    cache_n: int | None = None
    prompt_per_second: float | None = None
    predicted_per_second: float | None = None


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A call, or the next part of the one with this index."""

    index: int = 0
    function: Function = msgspec.field(default_factory=Function)


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the name that vLLM and OpenRouter use
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice] = []
    model: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: object = None


class WholeChoice(msgspec.Struct):
    message: Delta
    finish_reason: str | None = None


class Whole(msgspec.Struct):
    """An answer that was not streamed."""

    choices: list[WholeChoice] = []
    model: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None


CHUNK = msgspec.json.Decoder(Chunk)
WHOLE = msgspec.json.Decoder(Whole)

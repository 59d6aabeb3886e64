"""Reading requests: bounded bodies, typed fields, and errors that name the field.

Fields that are not known are accepted and ignored, as OpenAI does; a known field of the wrong type is refused by name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from localfoundry.errors import InvalidRequest, RequestTooLarge

Count = Annotated[int, msgspec.Meta(ge=1)]
LONGEST_TTL_S = 31_536_000  # as in the settings


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """Fields that chat and plain completions share. `random_seed`, `ep`, `ttl`: Foundry Local's additions."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    random_seed: int | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    ep: str | None = None
    ttl: int | None = None
    metadata: dict[str, Any] | None = None


class ChatRequest(Sampling, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Sampling, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None


class LoadBody(msgspec.Struct, kw_only=True):
    """`POST /foundry/load`, our own: what `foundry model run` asks for."""

    model: str
    retain: bool | None = None
    ttl: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_TTL_S)] | None = None
    context: Count | None = None
    device: str | None = None
    pin: bool | None = None
    keep_state: bool | None = None


class UnloadBody(msgspec.Struct, kw_only=True):
    """`POST /foundry/unload`; `force` cuts answers in flight."""

    model: str
    force: bool = False


T = TypeVar("T")


async def body(request: Request, limit: int) -> bytes:
    """The whole body. Raises RequestTooLarge without reading more than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise RequestTooLarge(f"the body is larger than {limit} bytes", hint="setting maxBodyBytes")
            parts.append(part)
    except ClientDisconnect:
        raise InvalidRequest("the client closed the connection before the body was complete") from None
    return b"".join(parts)


def parse(data: bytes, kind: type[T]) -> T:
    """Decode a body. Raises InvalidRequest with `param` naming the field, or the position where it is not JSON."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as exc:
        message, param = _named(str(exc))
        raise InvalidRequest(message, param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _named(message: str) -> tuple[str, str | None]:
    """msgspec's ``Expected `int`, got `str` - at `$.messages[...].role` `` as the API says it."""
    found = re.search(r" - at `\$\.?([^`]*)`$", message)
    if found:
        param = found.group(1).replace("[...]", "[]") or None
        return (f"{param}: " if param else "") + message[: found.start()], param
    missing = re.search(r"missing required field `([^`]+)`", message)
    return message, missing.group(1) if missing else None


def for_engine(data: bytes, request: Sampling) -> bytes:
    """The body as the engine reads it: the client's own bytes for a stream, a request for a stream otherwise.

    Foundry Local's `random_seed` becomes `seed`.
    """
    if request.stream and (request.random_seed is None or request.seed is not None):
        return data
    document = msgspec.json.decode(data)
    if request.random_seed is not None:
        document.setdefault("seed", document.pop("random_seed"))
    if not request.stream:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(document)

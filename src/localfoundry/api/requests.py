"""Reading requests: bounded bodies, typed fields, and errors that name the field.

Fields that are not known are accepted and ignored, as OpenAI does; a known field of the wrong type is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from localfoundry.api import exchange
from localfoundry.errors import InvalidRequest, RequestTooLarge

_INT32 = 2**31 - 1  # engines keep counts in these, and take a larger one for another number
_INT64 = 2**63 - 1
Count = Annotated[int, msgspec.Meta(ge=1, le=_INT32)]
Seed = Annotated[int, msgspec.Meta(ge=-_INT64 - 1, le=_INT64)]
Object = dict[str, msgspec.Raw]  # of whatever values: an engine reads them, and here they cost no memory
LONGEST_TTL_S = 31_536_000  # as in the settings


class Message(msgspec.Struct):
    role: str
    content: str | list[Object] | None = None


class Function(msgspec.Struct):
    name: str


class Tool(msgspec.Struct):
    type: Literal["function"]
    function: Function


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]


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
    top_k: Annotated[int, msgspec.Meta(ge=-_INT32, le=_INT32)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    random_seed: Seed | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    ep: str | None = None
    ttl: int | None = None
    metadata: Object | None = None


class ChatRequest(Sampling, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Tool | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Sampling, kw_only=True):
    prompt: str | list[str | int | list[int]]
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=_INT32)] | None = None  # 0: the prompt is scored
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
    engine: str | None = None
    pin: bool | None = None
    keep_state: bool | None = None
    force: bool = False  # although the estimate says that it does not fit


class UnloadBody(msgspec.Struct, kw_only=True):
    """`POST /foundry/unload`; `force` cuts answers in flight."""

    model: str
    force: bool = False


T = TypeVar("T")


async def body(request: Request, limit: int) -> bytes:
    """The whole body. Raises RequestTooLarge without reading more than `limit` bytes.

    How long it may take to arrive is bounded in `connection.py`.
    """
    parts: list[bytes] = []
    size = 0
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise RequestTooLarge(f"the body is larger than {limit} bytes", hint="setting maxBodyBytes")
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise RequestTooLarge(f"the body is larger than {limit} bytes", hint="setting maxBodyBytes")
            parts.append(part)
    except ClientDisconnect:
        exchange.of(request.scope).outcome = "cancelled"
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


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a worker gets it. `choices` for each prompt, `answers` in all.

    own_usage: the client gets a usage of ours, counted over all answers (`usage.py` says why).
    tools: the answer may call some. echo: the prompt is scored, and not answered.
    """

    body: bytes
    stream: bool = False
    choices: int = 1
    answers: int = 1
    own_usage: bool = False
    tools: bool = False
    echo: bool = False


def for_engine(data: bytes, request: Sampling) -> Asked:
    """The body as the engine reads it: the client's own bytes wherever they can stay.

    A plain answer is asked for as a stream. `random_seed` becomes `seed`. A `tool_choice` that names a function becomes
    `required` with that function as the only tool, which is the same and known to engines. Several answers are asked
    for without usage.
    """
    choices = request.n or 1
    answers = choices * (_prompts(request.prompt) if isinstance(request, CompletionRequest) else 1)
    named = request.tool_choice if isinstance(request, ChatRequest) and isinstance(request.tool_choice, Tool) else None
    usage = not request.stream or bool(request.stream_options and request.stream_options.include_usage)
    own_usage = usage and answers > 1
    changes: dict[str, object] = {}
    if not request.stream:
        changes |= {"stream": True, "stream_options": {"include_usage": not own_usage}}
    elif own_usage:
        changes["stream_options"] = {"include_usage": False}
    if request.random_seed is not None and request.seed is None:
        changes["seed"] = request.random_seed
    if named is not None and isinstance(request, ChatRequest):
        changes |= {"tool_choice": "required", "tools": _only(data, request, named)}
    if changes:
        data = msgspec.json.encode(msgspec.json.decode(data, type=Object) | changes)
    tools = isinstance(request, ChatRequest) and bool(request.tools) and request.tool_choice != "none"
    echo = isinstance(request, CompletionRequest) and bool(request.echo)
    return Asked(data, bool(request.stream), choices, answers, own_usage, tools, echo)


class _Tools(msgspec.Struct):
    tools: list[msgspec.Raw]


def _only(data: bytes, request: ChatRequest, wanted: Tool) -> list[msgspec.Raw]:
    """The tool of that name, as the client wrote it."""
    names = [tool.function.name for tool in request.tools or []]
    return [msgspec.json.decode(data, type=_Tools).tools[names.index(wanted.function.name)]]


def _prompts(prompt: str | list[str | int | list[int]]) -> int:
    """How many prompts: a list of numbers is one prompt as tokens, a list of texts or of lists is several."""
    if isinstance(prompt, str) or any(isinstance(part, int) for part in prompt):
        return 1
    return len(prompt)

"""What a request asks for, read from its body: sampling, stops, choices. What cannot be done is refused by name.

Fields that nobody knows are ignored, as OpenAI and llama-server do. Those that llama-server knows and we do not are
refused unless their value asks for nothing, and so is every option of the API that the backend lacks. Defaults are
llama-server's, so that a model answers alike whichever engine runs it; a default that the backend lacks is left out.
"""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from localfoundry.workers import schemas
from localfoundry.workers.generation import Backend, Grammar, Refused, Sampling

_DEFAULTS = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05}
_NEUTRAL: dict[str, Any] = {
    "top_p": 1, "top_k": 0, "min_p": 0, "repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
    "ignore_eos": False, "logit_bias": {},
}  # fmt: skip
# Options of llama-server's, with the values at which they ask for nothing.
_FOREIGN: dict[str, tuple[Any, ...]] = {
    "adaptive_decay": (), "adaptive_target": (-1,), "best_of": (1,), "dry_multiplier": (0,),
    "dynatemp_range": (0,), "echo": (False,), "grammar": ("",), "id_slot": (-1,), "lora": ([],), "min_keep": (0,),
    "mirostat": (0,), "n_indent": (0,), "n_keep": (0, -1), "n_probs": (0,), "n_discard": (0,),
    "post_sampling_probs": (False,), "repeat_last_n": (-1,), "return_tokens": (False,), "samplers": (),
    "suffix": ("",), "t_max_predict_ms": (0,), "top_n_sigma": (-1,), "typical_p": (1,), "xtc_probability": (0,),
}  # fmt: skip
_LONGEST_STOP = 1000
_T = TypeVar("_T")


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Body(msgspec.Struct, kw_only=True):
    """Fields that chat and plain completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n_predict: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None


class ChatBody(Body, kw_only=True):
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(Body, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    echo: bool | None = None
    json_schema: dict[str, Any] | None = None


class EmbeddingBody(msgspec.Struct, kw_only=True):
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    content: str
    add_special: bool = False


def read(body: bytes, kind: type[_T]) -> _T:
    """Raises Refused naming the field, or the option that is not here."""
    try:
        named = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        asked = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Refused(f"the request cannot be read: {exc}") from None
    for name in named.keys() & _FOREIGN.keys() - set(kind.__struct_fields__):  # type: ignore[attr-defined]
        value = msgspec.json.decode(named[name])
        if value is not None and value not in _FOREIGN[name]:
            raise Refused(f"{name}: this engine has no such option")
    return asked


def sampling(asked: Body, backend: Backend, prompt_tokens: int, grammar: Grammar | None) -> Sampling:
    """For one prompt. Raises Refused for a prompt that leaves no room for an answer, with the counts."""
    room = backend.context - prompt_tokens
    echo = _echoes(asked, backend)
    check_length(prompt_tokens, backend.context, "prompt", answer=0 if echo else 1)
    limit = 0 if echo else _limit(asked)
    chosen = {name: _chosen(asked, name, backend) for name in _NEUTRAL}
    chosen["logit_bias"] = _biases(chosen["logit_bias"])
    chosen["top_k"] = max(chosen["top_k"], 0)
    seed = random.getrandbits(63) if asked.seed is None or asked.seed == -1 else asked.seed & (2**64 - 1)
    temperature = _DEFAULTS["temperature"] if asked.temperature is None else asked.temperature
    return Sampling(
        max_tokens=room if limit is None else min(limit, room),
        temperature=temperature,
        seed=seed,
        top_logprobs=_logprobs(asked, backend),
        grammar=grammar,
        echo=echo,
        **chosen,
    )


def _echoes(asked: Body, backend: Backend) -> bool:
    """Whether the prompt is to be scored, in the words of OpenAI's completions: `echo`, and no token more."""
    if not isinstance(asked, CompletionBody) or not asked.echo:
        return False
    if "echo" not in backend.options:
        raise Refused(f"echo: the {backend.name} engine, as it was loaded, does not tell how likely a prompt is")
    if asked.max_tokens != 0 or asked.logprobs != 0 or (asked.n or 1) > 1:
        raise Refused("echo: it is taken with max_tokens 0, logprobs 0 and n 1 only, which scores the prompt")
    return True


def check_length(tokens: int, context: int, what: str, answer: int = 0) -> None:
    """Raise Refused with the counts for a text, `what`, that leaves no room for so many tokens of an answer."""
    if tokens + answer > context:
        words = f"the {what} has {tokens} tokens, and the context has room for {context} in all"
        raise Refused(words, "exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=context)
    if not tokens:
        raise Refused(f"the {what} is empty")


def with_seed(one: Sampling, number: int) -> Sampling:
    """The sampling of a request's choice: each has a seed of its own, the same ones every time."""
    return dataclasses.replace(one, seed=(one.seed + number) & (2**64 - 1)) if number else one


def _limit(asked: Body) -> int | None:
    """The most tokens of an answer; None: as many as there is room for."""
    newer = asked.max_completion_tokens if isinstance(asked, ChatBody) else None
    limit = next((one for one in (newer, asked.max_tokens, asked.n_predict) if one is not None), -1)
    return None if limit < 0 else max(limit, 1)


def _chosen(asked: Body, name: str, backend: Backend) -> Any:
    value = getattr(asked, name)
    if value is None:
        return _DEFAULTS.get(name, _NEUTRAL[name]) if name in backend.options else _NEUTRAL[name]
    if name not in backend.options and value != _NEUTRAL[name]:
        raise Refused(f"{name}: the {backend.name} engine has no such option")
    return value


def _biases(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise Refused("logit_bias: expected numbers of tokens") from None


def _logprobs(asked: Body, backend: Backend) -> int | None:
    """How many of the most probable tokens are told, besides the chosen one; None: nothing was asked for."""
    if isinstance(asked, ChatBody):
        wanted = (asked.top_logprobs or 0) if asked.logprobs else None
    else:
        wanted = asked.logprobs if isinstance(asked, CompletionBody) else None
    if wanted is not None and "logprobs" not in backend.options:
        raise Refused(f"logprobs: the {backend.name} engine has no such option")
    if wanted and "top_logprobs" not in backend.options:
        name = "top_logprobs" if isinstance(asked, ChatBody) else "logprobs"
        what = f"{name}: the {backend.name} engine tells the log probability of the chosen token only; the most is 0"
        if "first_top_logprobs" not in backend.options:
            raise Refused(what)
        if _limit(asked) != 1 or asked.temperature != 0:
            raise Refused(f"{what}, and more only for max_tokens 1 with temperature 0")
    return wanted


def choices(asked: Body, backend: Backend) -> int:
    """Answers for each prompt."""
    count = asked.n or 1
    if count > backend.parallel:
        raise Refused(f"n: {count} answers are more than the {backend.parallel} that can run at the same time")
    return count


def stops(asked: Body) -> tuple[str, ...]:
    given = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if any(len(stop) > _LONGEST_STOP for stop in given):
        raise Refused(f"stop: a stop sequence is longer than {_LONGEST_STOP} characters")
    return tuple(given)


def grammar(asked: ChatBody | CompletionBody, backend: Backend) -> Grammar | None:
    """What the answer has to be, where that was asked for. Raises Refused for a schema that cannot be kept to."""
    if isinstance(asked, CompletionBody):
        schema = asked.json_schema
    else:
        wanted = asked.response_format
        if wanted is None or wanted.type == "text":
            return None
        schema = wanted.schema or (wanted.json_schema.schema if wanted.json_schema else None)
        if schema is None and wanted.type == "json_schema":
            raise Refused("response_format.json_schema.schema: it is missing")
        schema = schema if schema is not None else {"type": "object"}
    if schema is None:
        return None
    require_grammar(backend, "response_format")
    schemas.check(schema, "response_format")
    return Grammar(json.dumps(schema))


def require_grammar(backend: Backend, name: str) -> None:
    if "grammar" not in backend.options:
        raise Refused(f"{name}: the {backend.name} engine cannot hold an answer to a schema")


def prompts(given: str | list[str | int | list[int]], name: str = "prompt") -> list[str | list[int]]:
    """A list of numbers is one prompt as tokens, a list of texts or of lists is several. Raises Refused."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(one, int) for one in given):
        return [[one for one in given if isinstance(one, int)]]
    several = [one for one in given if not isinstance(one, int)]
    if not several or len(several) != len(given):
        raise Refused(f"{name}: expected a text, tokens, or a list of either")
    return several

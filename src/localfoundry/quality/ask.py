"""One item put to one model over an OpenAI-compatible endpoint, streamed, so that the first token can be timed.

Works on whole answers, tool calls included; speed has a bench of its own. A server that asks to come back later
(429 or 503 with Retry-After) is asked again, and the waiting is not counted as the model's time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from localfoundry.errors import InvalidRequest
from localfoundry.quality.reply import Call, Reply, without_reasoning

if TYPE_CHECKING:
    import ssl

    import httpx2

TIMEOUT_S = 300.0
MAX_ANSWER_CHARACTERS = 400_000
MAX_CALLS = 64
_MAX_REFUSAL_BYTES = 65_536
_TRIES = 3
_LONGEST_WAIT_S = 30.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one request. Seconds since it was sent; counts are the server's.

    `error`: no whole answer came. `lasting`: the same is to be expected of the next item, so it speaks against the
    endpoint or the model and not against this prompt.
    """

    reply: Reply = Reply()
    raw: str = ""
    seconds: float = 0.0
    ttft_s: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    lasting: bool = False


class _Failure(Exception):
    def __init__(self, words: str, lasting: bool, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.lasting = lasting
        self.wait_s = wait_s


class Endpoint:
    """Use as an async context manager. Raises InvalidRequest for an address that is none."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        import httpx2

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"{url!r} is not an http address", param="endpoint")
        # A proxy from the environment must not stand between here and a service on this machine.
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._timeout_s = timeout_s
        self._http: httpx2.AsyncClient = httpx2.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers=dict(headers or {}),
            timeout=None,
            trust_env=not local,
            verify=verify,
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, body: Mapping[str, Any]) -> Heard:
        """Raises nothing but cancellation: what goes wrong is in the answer."""
        content = msgspec.json.encode({**body, "stream": True, "stream_options": {"include_usage": True}})
        left = _TRIES
        while True:
            stream = _Stream()
            left -= 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._stream(content, stream)
                return stream.heard()
            except TimeoutError:
                return stream.heard(f"no complete answer within {self._timeout_s:g} s", lasting=True)
            except _Failure as exc:
                if not left or exc.wait_s is None:
                    return stream.heard(exc.words, lasting=exc.lasting)
                await asyncio.sleep(exc.wait_s)

    async def _stream(self, content: bytes, stream: _Stream) -> None:
        import httpx2

        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        try:
            async with self._http.stream("POST", "/v1/chat/completions", content=content, headers=headers) as response:
                if response.status_code != 200:
                    raise await _refusal(response)
                stream.responded = True
                async for line in response.aiter_lines():
                    data = line[5:].strip() if line.startswith("data:") else ""
                    if data == "[DONE]":
                        stream.complete = True
                    elif data:
                        stream.take(msgspec.json.decode(data, type=_Chunk))
        except httpx2.HTTPError as exc:
            # llama.cpp's server closes kept-alive connections now and then just as the next request is on its way.
            again = isinstance(exc, httpx2.RemoteProtocolError | httpx2.ReadError | httpx2.WriteError)
            wait_s = 0.0 if again and not stream.responded else None
            raise _Failure(str(exc) or type(exc).__name__, lasting=True, wait_s=wait_s) from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise _Failure(f"the server sent what is not a chat completion chunk: {exc}", lasting=True) from exc
        if not stream.complete:
            raise _Failure("the stream ended before the answer did", lasting=True)


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the name that vLLM and OpenRouter use
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Stream:
    """What has arrived of one answer."""

    def __init__(self) -> None:
        self.responded = False
        self.complete = False
        self._sent = time.perf_counter()
        self._first: float | None = None
        self._text: list[str] = []
        self._characters = 0
        self._calls: dict[int, tuple[list[str], list[str]]] = {}
        self._finish: str | None = None
        self._usage = _Usage()

    def take(self, chunk: _Chunk) -> None:
        if chunk.error is not None:
            raise _Failure(_words({"error": chunk.error}), lasting=True)
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            self._take_delta(choice.delta or _Delta())
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
                self.complete = True

    def _take_delta(self, delta: _Delta) -> None:
        calls = delta.tool_calls or []
        thought = delta.reasoning_content or delta.reasoning or ""
        if self._first is None and (delta.content or thought or calls):
            self._first = time.perf_counter() - self._sent
        self._text.append(delta.content or "")
        self._characters += len(delta.content or "") + len(thought)
        for call in calls:
            names, arguments = self._calls.setdefault(call.index, ([], []))
            names.append(call.function.name or "")
            arguments.append(call.function.arguments or "")
            self._characters += len(arguments[-1]) + len(names[-1])
        if self._characters > MAX_ANSWER_CHARACTERS or len(self._calls) > MAX_CALLS:
            raise _Failure(f"the answer is longer than {MAX_ANSWER_CHARACTERS:,} characters", lasting=False)

    def heard(self, error: str | None = None, lasting: bool = False) -> Heard:
        raw = "".join(self._text)
        calls = tuple(_call("".join(names), "".join(arguments)) for names, arguments in self._calls.values())
        return Heard(
            reply=Reply(without_reasoning(raw), calls),
            raw=raw,
            seconds=time.perf_counter() - self._sent,
            ttft_s=self._first,
            prompt_tokens=self._usage.prompt_tokens,
            tokens=self._usage.completion_tokens,
            finish_reason=self._finish,
            error=error,
            lasting=lasting,
        )


def _call(name: str, arguments: str) -> Call:
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return Call(name, value if isinstance(value, dict) else None)


async def _refusal(response: httpx2.Response) -> _Failure:
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MAX_REFUSAL_BYTES:
            break
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        document = body.decode("utf-8", "replace").strip()
    status = response.status_code
    later = response.headers.get("retry-after", "")
    wait_s = min(float(later), _LONGEST_WAIT_S) if status in (429, 503) and later.isdecimal() else None
    # 400 and 413 speak of this prompt: too long for the context, tools that the template has no place for.
    return _Failure(f"HTTP {status}: {_words(document)}", lasting=status not in (400, 413, 422), wait_s=wait_s)


def _words(document: object) -> str:
    """The message of OpenAI's error object, text as it is, and the start of anything else."""
    inner = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(inner, dict) and isinstance(inner.get("message"), str):
        return str(inner["message"])[:500]
    return str(inner)[:300]

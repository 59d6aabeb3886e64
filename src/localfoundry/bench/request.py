"""One streamed chat request, timed: what was sent, when each chunk came, what the server counted, how it ended.

Tokens are counted by the server's `usage` and never by chunks, which may hold several tokens. The stream is cut into
lines here and not by the HTTP library, whose line reader costs as much again as everything else: at 2,000 chunks a
second the measuring must not take the processor from the measured.

Leaves the content of requests to `prompts` and when they are sent to `loads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from localfoundry.errors import ServiceError

if TYPE_CHECKING:
    import httpx2

ANSWER_CHARACTERS = 4000
_LONGEST_LINE = 4_000_000  # of a stream, in bytes: a server that never ends one must not fill the memory


class Sample(msgspec.Struct, frozen=True):
    """One request, raw. Times are seconds since the measurement began; None for what did not happen or was not told.

    `completion_tokens`, `prompt_tokens`, `cached_tokens` are the server's; `chunk_times_s` holds the arrival of each
    chunk that carried text. `error` is set where the answer did not come, or not to its end; what came is kept, and
    `status` is the HTTP status of a refusal. `due_s`: when an open loop wanted it sent, `sent_s` when it was; all times
    count from the former, or a server that stalls would be spared its queue. `energy_j`: its share of its round's.
    """

    label: str
    model: str
    round: int
    sent_s: float
    done_s: float
    first_token_s: float | None = None
    first_answer_s: float | None = None
    last_token_s: float | None = None
    chunk_times_s: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    engine_prefill_tps: float | None = None
    engine_decode_tps: float | None = None
    answer: str = ""
    error: str | None = None
    status: int | None = None
    scenario: str = "chat"
    language: str = "en"
    load: str = "c=1"
    seq: int = 0
    prompt_id: str = ""
    due_s: float | None = None
    energy_j: float | None = None

    @property
    def chunks(self) -> int:
        return len(self.chunk_times_s)

    @property
    def asked_s(self) -> float:
        """When the request was due; in a closed loop that is when it was sent."""
        return self.sent_s if self.due_s is None else self.due_s

    @property
    def ttft_s(self) -> float | None:
        """First token of any kind, reasoning included - request due."""
        return None if self.first_token_s is None else self.first_token_s - self.asked_s

    @property
    def ttfa_s(self) -> float | None:
        """First token of the answer, after any reasoning - request due."""
        return None if self.first_answer_s is None else self.first_answer_s - self.asked_s

    @property
    def itl_s(self) -> float | None:
        """(last token - first token) / (n - 1), n from the server's usage; vLLM calls this TPOT.

        None where all tokens came in one chunk: there is no time between them to divide.
        """
        if self.first_token_s is None or self.last_token_s is None or (self.completion_tokens or 0) < 2:
            return None
        assert self.completion_tokens is not None
        return (self.last_token_s - self.first_token_s) / (self.completion_tokens - 1) or None

    @property
    def decode_tps(self) -> float | None:
        """1 / ITL."""
        return 1 / self.itl_s if self.itl_s else None

    @property
    def prefill_tps(self) -> float | None:
        """Prompt tokens not cached / TTFT: an under-estimate, as TTFT holds the queue and the first token.

        Where the server does not tell cached tokens they are taken as 0, which the leading nonce makes nearly true.
        """
        if self.prompt_tokens is None or not self.ttft_s:
            return None
        return (self.prompt_tokens - (self.cached_tokens or 0)) / self.ttft_s

    @property
    def latency_s(self) -> float:
        """The whole request: end of the stream - request due."""
        return self.done_s - self.asked_s


class Question(msgspec.Struct, frozen=True):
    """What to ask, and the place of the answer in a measurement."""

    label: str
    model: str
    round: int
    scenario: str
    language: str
    load: str
    seq: int
    prompt_id: str
    body: Mapping[str, object]


async def ask(
    client: httpx2.AsyncClient,
    question: Question,
    now: Callable[[], float],
    timeout_s: float,
    due_s: float | None = None,
    secret: str = "",
    leaving: asyncio.Lock | None = None,
) -> Sample:
    """One request, streamed to its end, its failure or the deadline. Raises nothing but cancellation.

    `leaving` lets one request at a time out of the house: the parts of many would otherwise be sent in turns, each
    waiting for all others, 18 ms at 40 streams that no server spent. `secret` is taken out of whatever the server
    sends back: an error may quote the key that it refuses.
    """
    import httpx2

    heard = Heard(now())
    error: str | None = None
    body = msgspec.json.encode(question.body)
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await _stream(client, body, heard, now, leaving or asyncio.Lock())
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                # llama.cpp's server closes kept-alive connections on its own, now and then just as the next
                # request is on its way; that is no failure of the model. A second time it is reported.
                if heard.responded:
                    raise
                await _stream(client, body, heard, now, leaving or asyncio.Lock())
    except TimeoutError:
        error = f"no complete answer within {timeout_s:g} s"
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        error = f"{_place(heard)}: {exc or type(exc).__name__}"
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        error = f"{_place(heard)}: the server sent what is not a chat completion chunk: {exc}"
    except ServiceError as exc:
        error = exc.message
    return heard.sample(question, now(), due_s, error, secret)


async def _stream(
    client: httpx2.AsyncClient, body: bytes, heard: Heard, now: Callable[[], float], leaving: asyncio.Lock
) -> None:
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    mine = False

    async def trace(event: str, _: object) -> None:
        nonlocal mine
        if event == "http11.send_request_headers.started":
            mine = mine or await leaving.acquire()
            heard.sent = now()
        elif mine and event in ("http11.send_request_body.complete", "http11.send_request_body.failed"):
            mine = False
            leaving.release()

    try:
        async with client.stream(
            "POST", "chat/completions", content=body, headers=headers, extensions={"trace": trace}
        ) as response:
            await _hear(response, heard, now)
    finally:
        if mine:
            leaving.release()
    if not heard.complete:
        raise ServiceError(f"{_place(heard)}: the stream ended before the answer did")


async def _hear(response: httpx2.Response, heard: Heard, now: Callable[[], float]) -> None:
    """Read to the very end, past [DONE]: a connection left half-read is closed, and the next one pays for a new one."""
    heard.responded = True
    heard.status = response.status_code
    if response.status_code != 200:
        raise ServiceError(_refusal(response.status_code, await response.aread()))
    if response.headers.get("content-type", "").startswith("application/json"):
        heard.take_whole(msgspec.json.decode(await response.aread(), type=_Whole))
        return
    rest = b""
    async for arrived in response.aiter_raw():  # nothing is compressed: the client asks for none
        at = now()
        *lines, rest = (rest + arrived).split(b"\n")
        for line in lines:
            _line(line, heard, at)
        if len(rest) > _LONGEST_LINE:
            raise ServiceError(f"{_place(heard)}: a line of the stream is longer than {_LONGEST_LINE} bytes")
    _line(rest, heard, now())


def _line(line: bytes, heard: Heard, at: float) -> None:
    if not line.startswith(b"data:"):
        return
    data = line[5:].strip()
    if data == b"[DONE]":
        heard.complete = True
    elif data:
        heard.take(_DECODER.decode(data), at)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct):
    """What llama.cpp's server adds to the last chunk."""

    cache_n: int | None = None
    prompt_per_second: float | None = None
    predicted_per_second: float | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the name that vLLM and OpenRouter use
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: object = None


class _WholeChoice(msgspec.Struct):
    message: _Delta
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    """An answer that was not streamed."""

    choices: list[_WholeChoice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None


_DECODER = msgspec.json.Decoder(_Chunk)


class Heard:
    """What has arrived of one answer. `complete` once the server said so: a finish reason or `[DONE]`."""

    def __init__(self, sent: float) -> None:
        self.sent = sent
        self.responded = False
        self.complete = False
        self._whole = False
        self.status: int | None = None
        self._answer: list[str] = []
        self._room = ANSWER_CHARACTERS
        self._times: list[float] = []
        self._first_answer: float | None = None
        self._finish: str | None = None
        self._usage = _Usage()
        self._timings = _Timings()

    @property
    def chunks(self) -> int:
        return len(self._times)

    def take(self, chunk: _Chunk, now: float) -> None:
        """Count one chunk in. Raises ServiceError for an error that came as an event."""
        if chunk.error is not None:
            raise ServiceError(f"{_place(self)}: {_words({'error': chunk.error})}")
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        for choice in chunk.choices:
            delta = choice.delta
            if delta is not None:
                self._take_delta(delta, now)
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
                self.complete = True

    def take_whole(self, answer: _Whole) -> None:
        """An answer in one piece: nothing is known of its tokens' times."""
        self.complete = True
        self._usage = answer.usage or self._usage
        self._timings = answer.timings or self._timings
        for choice in answer.choices:
            text = choice.message.content or ""
            self._answer.append(text[: self._room])
            self._finish = choice.finish_reason
            self._whole = self._whole or bool(text or choice.message.tool_calls or choice.message.reasoning_content)

    def _take_delta(self, delta: _Delta, now: float) -> None:
        is_answer = bool(delta.content or delta.tool_calls)
        if is_answer or delta.reasoning_content or delta.reasoning:
            self._times.append(now)
        if is_answer and self._first_answer is None:
            self._first_answer = now
        if delta.content and self._room > 0:
            self._answer.append(delta.content[: self._room])
            self._room -= len(delta.content)

    def sample(self, question: Question, done: float, due: float | None, error: str | None, secret: str) -> Sample:
        details = self._usage.prompt_tokens_details
        cached = details.cached_tokens if details else None
        error = error or (None if self._times or self._whole else "the answer holds no token")
        return Sample(
            label=question.label,
            model=question.model,
            round=question.round,
            scenario=question.scenario,
            language=question.language,
            load=question.load,
            seq=question.seq,
            prompt_id=question.prompt_id,
            due_s=due,
            sent_s=self.sent,
            done_s=done,
            first_token_s=self._times[0] if self._times else None,
            first_answer_s=self._first_answer,
            last_token_s=self._times[-1] if self._times else None,
            chunk_times_s=tuple(self._times),
            prompt_tokens=self._usage.prompt_tokens,
            cached_tokens=self._timings.cache_n if cached is None else cached,
            completion_tokens=self._usage.completion_tokens,
            finish_reason=self._finish,
            engine_prefill_tps=self._timings.prompt_per_second,
            engine_decode_tps=self._timings.predicted_per_second,
            answer=_without("".join(self._answer), secret),
            error=_without(error, secret) if error else None,
            status=self.status,
        )


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "[key]") if secret else text


def _place(heard: Heard) -> str:
    return f"after {heard.chunks} chunks" if heard.chunks else "before the first token"


def _refusal(status: int, body: bytes) -> str:
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        document = body.decode("utf-8", "replace").strip()
    return f"HTTP {status}: {_words(document)}"


def _words(document: object) -> str:
    """The message of OpenAI's error object, text as it is, and the start of anything else."""
    inner = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(inner, dict) and isinstance(inner.get("message"), str):
        return str(inner["message"])[:1000]
    return str(inner)[:300]

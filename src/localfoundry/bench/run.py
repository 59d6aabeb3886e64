"""Measure models behind an OpenAI-compatible endpoint, over HTTP only, so that the figures are what a user gets.

Order of events: each model is loaded once and timed, each candidate answers one warm-up that is thrown away, then
come the rounds, interleaved over the candidates (A B C A B C), so that a drifting machine hurts all alike. Loading is
the caller's: it knows how to keep several models at once, without which interleaving would reload in every round.

Leaves statistics to `stats` and words to `report`. Trade-off: one stream at a time, each token's arrival known only by
its SSE chunk; tokens are counted by the server's `usage` and never by chunks, which may hold several tokens.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from localfoundry.bench.prompts import prompt
from localfoundry.errors import FoundryError, InvalidRequest, ServiceError

if TYPE_CHECKING:
    import ssl

    import httpx2

ROUNDS = 5
SEED = 42
TIMEOUT_S = 300.0
ANSWER_CHARACTERS = 100

Load = Callable[[str], Awaitable[float | None]]


class Candidate(msgspec.Struct, frozen=True):
    """One thing to measure: a model with its settings. `label` is what tables call it.

    `prompt` replaces the generated text behind the nonce. `parameters` go into the request body as they are, over
    everything this module puts there.
    """

    label: str
    model: str
    max_tokens: int = 64
    prompt_words: int = 60
    prompt: str | None = None
    parameters: dict[str, object] = {}


class Sample(msgspec.Struct, frozen=True):
    """One request, raw. Times are seconds since the measurement began; None for what did not happen or was not told.

    `completion_tokens`, `prompt_tokens`, `cached_tokens` are the server's; `chunk_times_s` holds the arrival of each
    chunk that carried text. `error` is set where the answer did not come, or not to its end; what came is kept.
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

    @property
    def chunks(self) -> int:
        return len(self.chunk_times_s)

    @property
    def ttft_s(self) -> float | None:
        """First token of any kind, reasoning included - request sent."""
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def ttfa_s(self) -> float | None:
        """First token of the answer, after any reasoning - request sent."""
        return None if self.first_answer_s is None else self.first_answer_s - self.sent_s

    @property
    def itl_s(self) -> float | None:
        """(last token - first token) / (n - 1), n from the server's usage; vLLM calls this TPOT."""
        if self.first_token_s is None or self.last_token_s is None or (self.completion_tokens or 0) < 2:
            return None
        assert self.completion_tokens is not None
        return (self.last_token_s - self.first_token_s) / (self.completion_tokens - 1)

    @property
    def decode_tps(self) -> float | None:
        """1 / ITL. None where all tokens came in one chunk: there is no time between them to divide by."""
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
        """The whole request: end of the stream - request sent."""
        return self.done_s - self.sent_s


class Outcome(msgspec.Struct):
    """What came of one candidate. With `error` set, `samples` holds what was measured before it."""

    candidate: Candidate
    load_s: float | None = None
    samples: list[Sample] = []
    error: str | None = None

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.error is None]


class Measurement(msgspec.Struct):
    """All raw results with the settings that made them. The same `nonce` and `seed` give the same prompts again."""

    base_url: str
    rounds: int
    seed: int
    nonce: str
    timeout_s: float
    started_at: str
    outcomes: list[Outcome]
    wall_s: float = 0.0
    interrupted: bool = False


async def measure(
    base_url: str,
    candidates: Sequence[Candidate],
    load: Load | None = None,
    *,
    rounds: int = ROUNDS,
    seed: int = SEED,
    nonce: str | None = None,
    timeout_s: float = TIMEOUT_S,
    headers: Mapping[str, str] | None = None,
    verify: ssl.SSLContext | bool = True,
    on_sample: Callable[[Sample], None] | None = None,
) -> Measurement:
    """Measure every candidate; the failure of one is its `error`, and the others go on.

    `load(model)` makes a model ready, keeps the others, and returns the seconds it took or None where it was ready;
    it raises FoundryError. `on_sample` is called after each request, round 0 being the warm-up.
    A cancellation (Ctrl-C) ends the measuring, is taken as answered and returns what there is with `interrupted` set;
    only a second one while the connections close is passed on. Raises InvalidRequest for a list that cannot be run.
    """
    _check(candidates, rounds)
    result = Measurement(
        base_url=base_url,
        rounds=rounds,
        seed=seed,
        nonce=nonce or secrets.token_hex(8),
        timeout_s=timeout_s,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        outcomes=[Outcome(candidate) for candidate in candidates],
    )
    began = time.perf_counter()
    try:
        async with _client(base_url, headers, verify) as client:
            await _run(_Endpoint(client, result, began), load, on_sample)
    except asyncio.CancelledError:
        result.interrupted = True
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    result.wall_s = time.perf_counter() - began
    return result


def _check(candidates: Sequence[Candidate], rounds: int) -> None:
    labels = [candidate.label for candidate in candidates]
    if not labels:
        raise InvalidRequest("there is nothing to measure: no model was named", param="models")
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InvalidRequest(f"two candidates are called {twice!r}; results could not be told apart", param="models")
    if rounds < 1:
        raise InvalidRequest(f"{rounds} rounds; at least 1", param="rounds")


async def _run(endpoint: _Endpoint, load: Load | None, on_sample: Callable[[Sample], None] | None) -> None:
    outcomes = endpoint.result.outcomes
    await _load_all(outcomes, load)
    for round_number in range(endpoint.result.rounds + 1):
        for outcome in outcomes:
            if outcome.error is not None:
                continue
            sample = await endpoint.ask(outcome.candidate, round_number)
            # One failure ends a candidate: a model that hangs would otherwise cost its timeout in every round.
            outcome.error = sample.error
            if round_number or sample.error:
                outcome.samples.append(sample)
            if on_sample is not None:
                on_sample(sample)


async def _load_all(outcomes: Sequence[Outcome], load: Load | None) -> None:
    if load is None:
        return
    done: dict[str, tuple[float | None, str | None]] = {}
    for outcome in outcomes:
        model = outcome.candidate.model
        if model not in done:
            try:
                done[model] = await load(model), None
            except FoundryError as exc:
                done[model] = None, exc.message
        outcome.load_s, outcome.error = done[model]


def _client(base_url: str, headers: Mapping[str, str] | None, verify: ssl.SSLContext | bool) -> httpx2.AsyncClient:
    import httpx2

    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{base_url!r} is not an http address", param="base_url")
    # A proxy from the environment would stand between a local service and its measurement.
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    root = base_url.rstrip("/").removesuffix("/v1")
    return httpx2.AsyncClient(
        base_url=root, headers=dict(headers or {}), timeout=None, trust_env=not local, verify=verify
    )


class _Endpoint:
    """One connection pool, one clock and the prompts that all candidates share."""

    def __init__(self, client: httpx2.AsyncClient, result: Measurement, began: float) -> None:
        self.client = client
        self.result = result
        self._began = began

    def now(self) -> float:
        return time.perf_counter() - self._began

    async def ask(self, candidate: Candidate, round_number: int) -> Sample:
        """One request, streamed to its end, its failure or the deadline. Raises nothing but cancellation."""
        import httpx2

        body = msgspec.json.encode(self._body(candidate, round_number))
        heard = _Heard()
        error: str | None = None
        sent = self.now()
        try:
            async with asyncio.timeout(self.result.timeout_s):
                try:
                    await self._stream(body, heard)
                except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                    # llama.cpp's server closes kept-alive connections on its own, now and then just as the next
                    # request is on its way; that is no failure of the model. A second time it is reported.
                    if heard.responded:
                        raise
                    sent = self.now()
                    await self._stream(body, heard)
        except TimeoutError:
            error = f"no complete answer within {self.result.timeout_s:g} s"
        except httpx2.HTTPError as exc:
            error = f"{_place(heard)}: {exc or type(exc).__name__}"
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            error = f"{_place(heard)}: the server sent what is not a chat completion chunk: {exc}"
        except ServiceError as exc:
            error = exc.message
        return heard.sample(candidate, round_number, sent, self.now(), error)

    def _body(self, candidate: Candidate, round_number: int) -> dict[str, object]:
        outcomes = self.result.outcomes
        same = [o.candidate.label for o in outcomes if o.candidate.model == candidate.model]
        twin = same.index(candidate.label)
        nonce, seed = self.result.nonce, self.result.seed
        text = prompt(nonce, seed, round_number, twin, candidate.prompt_words)
        if candidate.prompt is not None:
            text = f"{text.split(maxsplit=1)[0]} {candidate.prompt}"
        body: dict[str, object] = {
            "model": candidate.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": candidate.max_tokens,
            "temperature": 0,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body | candidate.parameters

    async def _stream(self, body: bytes, heard: _Heard) -> None:
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        async with self.client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as response:
            heard.responded = True
            if response.status_code != 200:
                raise ServiceError(_refusal(response.status_code, await response.aread()))
            # Read to the very end, past [DONE]: a connection left half-read is closed, and the next request would pay
            # for a new one.
            async for line in response.aiter_lines():
                data = line[5:].strip() if line.startswith("data:") else ""
                if data == "[DONE]":
                    heard.complete = True
                elif data:
                    heard.take(msgspec.json.decode(data, type=_Chunk), self.now())
        if not heard.complete:
            raise ServiceError(f"{_place(heard)}: the stream ended before the answer did")


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
    tool_calls: list[object] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: object = None


class _Heard:
    """What has arrived of one answer. `complete` once the server said so: a finish reason or `[DONE]`."""

    def __init__(self) -> None:
        self.responded = False
        self.complete = False
        self._answer = ""
        self._times: list[float] = []
        self._first_answer: float | None = None
        self._finish: str | None = None
        self._usage = _Usage()
        self._timings = _Timings()

    @property
    def chunks(self) -> int:
        return len(self._times)

    def take(self, chunk: _Chunk, now: float) -> None:
        if chunk.error is not None:
            raise ServiceError(f"{_place(self)}: {_words({'error': chunk.error})}")
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        for choice in chunk.choices:
            delta = choice.delta or _Delta()
            is_answer = bool(delta.content or delta.tool_calls)
            if is_answer or delta.reasoning_content or delta.reasoning:
                self._times.append(now)
            if is_answer and self._first_answer is None:
                self._first_answer = now
            if len(self._answer) < ANSWER_CHARACTERS:
                self._answer = (self._answer + (delta.content or ""))[:ANSWER_CHARACTERS]
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
                self.complete = True

    def sample(self, candidate: Candidate, round_number: int, sent: float, done: float, error: str | None) -> Sample:
        details = self._usage.prompt_tokens_details
        cached = details.cached_tokens if details else None
        return Sample(
            label=candidate.label,
            model=candidate.model,
            round=round_number,
            sent_s=sent,
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
            answer=self._answer,
            error=error or (None if self._times else "the answer holds no token"),
        )


def _place(heard: _Heard) -> str:
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
        return str(inner["message"])
    return str(inner)[:300]

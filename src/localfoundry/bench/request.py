"""One streamed chat request, timed: what was sent, when each chunk came, what the server counted, how it ended.

Leaves the exchange itself to `chat`, the content of requests to `prompts` and when they are sent to `loads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from localfoundry.chat import request
from localfoundry.chat.arrived import Arrived
from localfoundry.chat.target import without

if TYPE_CHECKING:
    import httpx2

ANSWER_CHARACTERS = 4000


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

    `leaving`: see `chat.request.ask`. `secret` is taken out of whatever the server sends back.
    """
    arrived = Arrived(now(), ANSWER_CHARACTERS)
    failure = await request.ask(client, msgspec.json.encode(question.body), arrived, now, timeout_s, leaving)
    return _sample(question, arrived, now(), due_s, failure.words if failure else None, secret)


def _sample(
    question: Question, arrived: Arrived, done: float, due: float | None, error: str | None, secret: str
) -> Sample:
    usage, timings, times = arrived.usage, arrived.timings, arrived.times
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    error = error or (None if times or arrived.in_one_piece else "the answer holds no token")
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
        sent_s=arrived.sent,
        done_s=done,
        first_token_s=times[0] if times else None,
        first_answer_s=arrived.first_answer,
        last_token_s=times[-1] if times else None,
        chunk_times_s=tuple(times),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=timings.cache_n if cached is None else cached,
        completion_tokens=usage.completion_tokens,
        finish_reason=arrived.finish,
        engine_prefill_tps=timings.prompt_per_second,
        engine_decode_tps=timings.predicted_per_second,
        answer=without(secret, arrived.text),
        error=without(secret, error) if error else None,
        status=arrived.status,
    )

"""What the service counts of itself from its start on: of every request at its end, and of what happens to models.

Plain dictionaries, which `metrics.py` turns into Prometheus's form when it is asked: counting one request takes 6 µs
this way; the library's own objects took 13 µs, and their import of 20 ms would be part of every start. Labels are
bounded: ids of models that were resolved, templates of paths, codes of our own errors; never text of a request.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from localfoundry.api.exchange import Exchange
from localfoundry.service.events import ModelEvent

# Seconds. The first two are those of OpenTelemetry's conventions for generative models, and more for slow machines.
TO_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
LOADING = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

RECENT_S = 60.0
_MOST_RECENT = 4_000  # requests that are remembered at most, below 1 MB; where more come, the minute is shorter

_EVICTED = {"evicted": "room", "expired": "idle", "replaced": "replaced"}
_Labels = tuple[str, ...]
_ENDED_BADLY = ("crashed", "hung")


class Histogram:
    """Counts by upper bound, the last one without bound, and the sum of all values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ByModel(dict[str, Histogram]):
    """A histogram for each model, made when there is something to count."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self.bounds = bounds

    def __missing__(self, model: str) -> Histogram:
        made = self[model] = Histogram(self.bounds)
        return made


@dataclass(frozen=True, slots=True)
class Past:
    """A request that has ended, for figures of the last minute. Times in seconds on the monotonic clock."""

    ended: float
    to_first_token_s: float | None
    completion_tokens: int
    failed: bool


@dataclass(slots=True)
class Counters:
    """See the module. `ended` observes exchanges, `happened` listens to the service."""

    requests: Counter[_Labels] = field(default_factory=Counter)  # model, endpoint, status, outcome
    tokens: Counter[_Labels] = field(default_factory=Counter)  # model, kind
    to_first_token: ByModel = field(default_factory=lambda: ByModel(TO_FIRST_TOKEN))
    between_tokens: ByModel = field(default_factory=lambda: ByModel(BETWEEN_TOKENS))
    queue: ByModel = field(default_factory=lambda: ByModel(TO_FIRST_TOKEN))
    loads: Counter[_Labels] = field(default_factory=Counter)  # model, result
    loading: ByModel = field(default_factory=lambda: ByModel(LOADING))
    evictions: Counter[_Labels] = field(default_factory=Counter)  # model, reason
    crashes: Counter[_Labels] = field(default_factory=Counter)  # model, kind
    recent: deque[Past] = field(default_factory=lambda: deque(maxlen=_MOST_RECENT))

    def ended(self, exchange: Exchange) -> None:
        model = exchange.model or ""
        self.requests[model, exchange.endpoint, str(exchange.status), exchange.outcome] += 1
        if exchange.model is None:
            return
        self._tokens(model, exchange)
        if exchange.granted is not None:
            self.queue[model].observe(exchange.granted - exchange.arrived)
        to_first = None
        if exchange.first is not None:
            to_first = exchange.first - exchange.arrived
            self.to_first_token[model].observe(to_first)
        between = inter_token_s(exchange)
        if between is not None:
            self.between_tokens[model].observe(between)
        ended = exchange.ended if exchange.ended is not None else time.monotonic()
        self._forget(ended)
        self.recent.append(Past(ended, to_first, exchange.completion_tokens or 0, exchange.outcome != "ok"))

    def _tokens(self, model: str, exchange: Exchange) -> None:
        if exchange.prompt_tokens is not None:
            self.tokens[model, "prompt"] += exchange.prompt_tokens
        if exchange.cached_tokens is not None:
            self.tokens[model, "cached"] += exchange.cached_tokens
        if exchange.completion_tokens is not None:
            self.tokens[model, "completion"] += exchange.completion_tokens

    def happened(self, event: ModelEvent) -> None:
        if event.kind == "loaded":
            self.loads[event.model, "ok"] += 1
            self.loading[event.model].observe(event.seconds)
        elif event.kind == "load_failed":
            self.loads[event.model, "failed"] += 1
        elif event.kind in _EVICTED:
            self.evictions[event.model, _EVICTED[event.kind]] += 1
        elif event.kind in _ENDED_BADLY:
            self.crashes[event.model, event.kind] += 1

    @property
    def models(self) -> set[str]:
        """Ids of every model that anything was counted of."""
        counted = {labels[0] for labels in (*self.requests, *self.loads)}
        return counted - {""}

    def last_minute(self, now: float) -> tuple[list[Past], float]:
        """Requests to models that ended within `RECENT_S`, and how many seconds they are of."""
        self._forget(now)
        full = len(self.recent) == _MOST_RECENT
        return list(self.recent), now - self.recent[0].ended if full else RECENT_S

    def _forget(self, now: float) -> None:
        while self.recent and self.recent[0].ended < now - RECENT_S:
            self.recent.popleft()


def inter_token_s(exchange: Exchange) -> float | None:
    """ITL: (last - first) / (n - 1), n the engine's own count; one chunk is not taken for one token.

    None for an answer of one token, and for one that came from the worker in one piece.
    """
    count = exchange.completion_tokens
    if exchange.first is None or exchange.last is None or count is None or count < 2 or exchange.last <= exchange.first:
        return None
    return (exchange.last - exchange.first) / (count - 1)

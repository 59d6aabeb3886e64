"""`GET /metrics` for Prometheus, and `GET /foundry/stats`: the last minute for `foundry top`.

What is counted is in `counters.py`; what can be looked up is looked up when it is asked for. The library that writes
Prometheus's forms is imported by the first scrape: a service that nobody scrapes does not pay for it.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import psutil
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localfoundry import __version__
from localfoundry.api.counters import ByModel, Counters, Past
from localfoundry.service.memory import resident_bytes
from localfoundry.service.service import Service

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_Labels = tuple[str, ...]


def routes(service: Service, counters: Counters) -> list[Route]:
    exposition = _Exposition(service, counters)

    async def metrics(request: Request) -> Response:
        text, form = exposition.written(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": form})

    async def figures(_: Request) -> JSONResponse:
        return JSONResponse(stats(service, counters, time.monotonic()))

    return [Route("/metrics", metrics), Route("/foundry/stats", figures)]


class _Exposition:
    """A registry of its own with one collector: this. Nothing is registered with the library's global one."""

    def __init__(self, service: Service, counters: Counters) -> None:
        self.service = service
        self.counters = counters
        self._own = psutil.Process()

    def written(self, accept: str) -> tuple[bytes, str]:
        """Everything in the form that `accept` asks for (text or OpenMetrics), and its content type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        encode, form = choose_encoder(accept)
        return encode(registry), form

    def collect(self) -> Iterator[Metric]:
        yield from self._of_requests()
        yield from self._of_models()
        yield from self._of_memory()
        yield from self._of_the_process()

    def _of_requests(self) -> Iterator[Metric]:
        known = self.counters
        labels = ("model", "endpoint", "status", "outcome")
        outcome = "Requests that ended; the outcome is `ok` or the code of the error."
        to_first = "From the arrival of a request to its first token, queue and load included."
        queue = "From the arrival of a request until the worker was asked, load included."
        between = "(last - first) / (tokens - 1) of one answer."
        yield _counter("localfoundry_requests", outcome, labels, known.requests)
        yield _counter("localfoundry_tokens", "Tokens as the engine counts them.", ("model", "kind"), known.tokens)
        yield _histogram("localfoundry_time_to_first_token_seconds", to_first, known.to_first_token)
        yield _histogram("localfoundry_inter_token_latency_seconds", between, known.between_tokens)
        yield _histogram("localfoundry_queue_seconds", queue, known.queue)

    def _of_models(self) -> Iterator[Metric]:
        known = self.counters
        running = {model.id: model.in_flight for model in self.service.models}
        ids = sorted(known.models | set(running))
        now: dict[_Labels, float] = {(name,): running.get(name, 0) for name in ids}
        waiting: dict[_Labels, float] = {(name,): self.service.waiting(name) for name in ids}
        unloaded = "Models that the service unloaded: for the room, or because they were idle."
        ended = "Workers that ended by themselves, or hung and were ended."
        yield _gauge("localfoundry_requests_running", "Requests that a worker is at.", ("model",), now)
        yield _gauge("localfoundry_requests_waiting", "Requests that wait for a model.", ("model",), waiting)
        yield _counter("localfoundry_model_loads", "Loads that ended.", ("model", "result"), known.loads)
        yield _histogram("localfoundry_model_load_seconds", "Time of a load that succeeded.", known.loading)
        yield _counter("localfoundry_evictions", unloaded, ("model", "reason"), known.evictions)
        yield _counter("localfoundry_worker_crashes", ended, ("model", "kind"), known.crashes)

    def _of_memory(self) -> Iterator[Metric]:
        sizes: dict[_Labels, float] = {}
        for model in self.service.models:
            sizes |= {(model.id, kind): size for kind, size in model.memory.items()}
            resident = resident_bytes(model.worker.pid)
            if resident is not None:
                sizes[model.id, "process"] = resident
        measured = "Memory of a loaded model: `process` is measured, the rest is what the engine says."
        yield _gauge("localfoundry_model_memory_bytes", measured, ("model", "kind"), sizes)
        ledger = self.service.memory()
        for name, key, meaning in (
            ("localfoundry_memory_limit_bytes", "limit", "Memory that models may take together."),
            ("localfoundry_memory_others_bytes", "others", "Memory that is used by anything else."),
            ("localfoundry_memory_reserved_bytes", "reserve", "Memory that is kept free."),
            ("localfoundry_memory_claimed_bytes", "claimed", "Memory that loaded models were granted."),
        ):
            yield _gauge(name, meaning, (), {(): ledger[key]})

    def _of_the_process(self) -> Iterator[Metric]:
        """Under the names that dashboards expect of any process. psutil, because the library's own is Linux only."""
        own = self._own
        cpu = own.cpu_times()
        if sys.platform == "win32":
            files = own.num_handles()
        else:
            files = own.num_fds()
        versions: dict[_Labels, float] = {(__version__, platform.python_version()): 1}
        yield _gauge("process_resident_memory_bytes", "Memory of the service.", (), {(): own.memory_info().rss})
        yield _gauge("process_open_fds", "Open files and sockets of the service.", (), {(): files})
        yield _gauge("process_start_time_seconds", "Seconds since the epoch.", (), {(): self.service.started_at})
        yield _counter("process_cpu_seconds", "Processor time of the service.", (), {(): cpu.user + cpu.system})
        yield _gauge("localfoundry_build_info", "1; the version is a label.", ("version", "python"), versions)


def _counter(name: str, help: str, labels: Sequence[str], values: Mapping[_Labels, float]) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, help: str, labels: Sequence[str], values: Mapping[_Labels, float]) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, help: str, by_model: ByModel) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(name, help, labels=("model",))
    for model, histogram in by_model.items():
        so_far = 0
        buckets = []
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            so_far += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), so_far))
        family.add_metric((model,), buckets, sum_value=histogram.total)
    return family


def stats(service: Service, counters: Counters, now: float) -> dict[str, object]:
    """Figures of the last minute, and of now. Rates are per second of the minute, or of the uptime where it is less."""
    past, seconds = counters.last_minute(now)
    uptime = time.time() - service.started_at
    span = max(min(seconds, uptime), 1.0)
    models = service.models
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": uptime,
        "window_s": span,
        "requests_per_s": len(past) / span,
        "failed_per_s": sum(one.failed for one in past) / span,
        "completion_tokens_per_s": sum(one.completion_tokens for one in past) / span,
        "tokens_per_s": sum(model.rate.per_second(now) for model in models),
        "time_to_first_token_s": _to_first_token(past),
        "requests_running": sum(model.in_flight for model in models),
        "requests_waiting": sum(service.waiting(name) for name in counters.models | {m.id for m in models}),
        "requests": sum(counters.requests.values()),
        "preparing": [{"id": one.source.id, "words": one.words, "share": one.share} for one in service.preparing],
        "memory": service.memory() | {"service": resident_bytes(os.getpid())},
    }


def _to_first_token(past: list[Past]) -> dict[str, float | int | None]:
    values = sorted(one.to_first_token_s for one in past if one.to_first_token_s is not None)
    return {"p50": _percentile(values, 0.5), "p95": _percentile(values, 0.95), "n": len(values)}


def _percentile(ordered: list[float], share: float) -> float | None:
    """The nearest rank: the smallest value that at least `share` of all values do not exceed."""
    if not ordered:
        return None
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

"""OpenTelemetry traces: a span for each request; below it its queue, load, wait for the first token, generation.

Spans are made when a request is over, from the times that it left in its `Exchange`; while it runs, nothing is done for
its trace. Names and attributes are those of the conventions for HTTP servers and for generative models. Prompts and
answers are never in them. A client's `traceparent` is honoured, its decision about sampling too.

The packages are an extra, and importing them takes as long as a third of the service's start: this module imports them
only where traces are on. Requests by GET are reads and polls, several a second from `foundry top`: not traced.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from localfoundry import __version__
from localfoundry.api.exchange import Exchange
from localfoundry.config import Settings
from localfoundry.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

    from localfoundry.service.events import ModelEvent
    from localfoundry.service.service import Service

log = logging.getLogger(__name__)

_STANDARD = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_INSTALL = "pip install 'localfoundry[otel]'"
_FLUSH_S = 2.0
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def check(settings: Settings) -> None:
    """Raises MissingExtra where traces are asked for by the setting and the packages are not installed.

    Where only the environment names a collector, perhaps for other programs, that is a line in the log (`begin`).
    """
    if settings.traces not in ("auto", "off") and not _installed():
        raise MissingExtra("traces need the packages of OpenTelemetry, which are not installed", hint=_INSTALL)


def begin(settings: Settings, service: Service) -> list[Tracing]:
    """The observer that sends traces, where they are on."""
    if settings.traces == "off" or (settings.traces == "auto" and not any(os.environ.get(name) for name in _STANDARD)):
        return []
    if not _installed():
        log.warning("no traces are sent: %s", _INSTALL)
        return []
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # Without an address the exporter reads the standard names of the environment itself.
    tracing = Tracing(OTLPSpanExporter(None if settings.traces == "auto" else _address(settings.traces)))
    service.listeners.append(tracing.happened)
    return [tracing]


def _installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)
    except ModuleNotFoundError:  # the parent of one
        return False


def _address(collector: str) -> str:
    """A collector's own address stands for its place for traces, as in the standard's variable."""
    return collector if urlsplit(collector).path.strip("/") else f"{collector.rstrip('/')}/v1/traces"


class Tracing:
    """Observes exchanges and makes spans of them. The exporter is called in a thread of the library's own."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        ours = Resource.create({SERVICE_NAME: "localfoundry", SERVICE_VERSION: __version__})
        self._provider: TracerProvider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("localfoundry", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._loads: dict[str, tuple[float, float]] = {}  # the last load of each model, on the monotonic clock

    def happened(self, event: ModelEvent) -> None:
        if event.kind == "loaded":
            now = time.monotonic()
            self._loads[event.model] = (now - event.seconds, now)

    def __call__(self, known: Exchange) -> None:
        if known.method == "GET" or known.ended is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        parent = self._propagator.extract({"traceparent": known.trace_parent} if known.trace_parent else {})
        clock = time.time_ns() - int(time.monotonic() * 1e9)
        operation = _OPERATIONS.get(known.endpoint)
        name = f"{operation} {known.model}" if operation and known.model else f"{known.method} {known.endpoint}"
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, _attributes(known, operation), start_time=_at(known.arrived, clock)
        )
        if known.outcome != "ok":
            span.set_status(Status(StatusCode.ERROR, known.outcome))
        if span.is_recording():
            for part, start, end in self._parts(known):
                child = self._tracer.start_span(part, set_span_in_context(span), start_time=_at(start, clock))
                child.end(_at(end, clock))
        span.end(_at(known.ended, clock))

    def _parts(self, known: Exchange) -> list[tuple[str, float, float]]:
        """What the time went into, as far as the request came: name, start and end on the monotonic clock."""
        parts = []
        if known.granted is not None:
            parts.append(("queue", known.arrived, known.granted))
            load = self._loads.get(known.model or "")
            if load is not None and known.arrived < load[1] <= known.granted:
                parts.append(("load", max(load[0], known.arrived), load[1]))
        if known.granted is not None and known.first is not None:
            parts.append(("first token", known.granted, known.first))
        if known.first is not None and known.last is not None:
            parts.append(("generation", known.first, known.last))
        return parts

    def close(self) -> None:
        """Send what is left, for a few seconds at most. Blocks.

        The library waits for a collector that does not answer, and tries again, for longer than a stop may take; so it
        does that in a thread that ends with the process.
        """
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_FLUSH_S)


def _at(moment: float, clock: int) -> int:
    """Nanoseconds since the epoch of a moment on the monotonic clock."""
    return clock + int(moment * 1e9)


def _attributes(known: Exchange, operation: str | None) -> dict[str, str | int | float | bool]:
    to_first = known.first - known.arrived if known.first is not None and known.stream else None
    found: dict[str, str | int | float | bool | None] = {
        "http.request.method": known.method,
        "http.route": known.endpoint,
        "http.response.status_code": known.status or None,
        "error.type": known.outcome if known.outcome != "ok" else None,
        "localfoundry.request.id": known.request_id,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "localfoundry" if operation else None,
        "gen_ai.request.model": known.model,
        "gen_ai.response.model": known.model,
        "gen_ai.request.stream": known.stream if operation else None,
        "gen_ai.response.time_to_first_chunk": to_first,
        "gen_ai.usage.input_tokens": known.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": known.cached_tokens,
        "gen_ai.usage.output_tokens": known.completion_tokens,
    }
    return {name: value for name, value in found.items() if value is not None}

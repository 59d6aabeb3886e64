"""Traces: what spans say of a request, that the client's context is honoured, and one trip to a real receiver."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.exchanges import exchange
from api.server import Server
from localfoundry import config
from localfoundry.api import traces
from localfoundry.api.exchange import Exchange
from localfoundry.errors import MissingExtra
from localfoundry.service.events import ModelEvent

New = Callable[..., Server]
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans_of(exchange: Exchange, *events: ModelEvent) -> dict[str, ReadableSpan]:
    exporter = InMemorySpanExporter()
    tracing = traces.Tracing(exporter)
    for event in events:
        tracing.happened(event)
    tracing(exchange)
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def chat(**fields: object) -> Exchange:
    return exchange(**({"first": 101.5, "last": 103.5, "ended": 103.6} | fields))


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_a_request_has_a_span_and_its_parts_below_it() -> None:
    spans = spans_of(chat())
    assert {name: round(seconds(span), 3) for name, span in spans.items()} == {
        "chat m:1": 3.6, "queue": 1.0, "first token": 0.5, "generation": 2.0,
    }  # fmt: skip
    top = spans["chat m:1"]
    for name in ("queue", "first token", "generation"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == top.context.span_id
    assert dict(top.attributes or {}) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "localfoundry.request.id": "id", "gen_ai.operation.name": "chat", "gen_ai.provider.name": "localfoundry",
        "gen_ai.request.model": "m:1", "gen_ai.response.model": "m:1", "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 1.5, "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3, "gen_ai.usage.output_tokens": 11,
    }  # fmt: skip
    assert top.resource.attributes["service.name"] == "localfoundry"


def test_a_load_that_the_request_waited_for_is_shown() -> None:
    now = time.monotonic()
    event = ModelEvent("loaded", "m:1", 0.5)
    times = {"arrived": now - 1, "granted": now + 5, "first": None, "last": None, "ended": now + 5}
    assert seconds(spans_of(chat(**times), event)["load"]) == pytest.approx(0.5, abs=0.05)
    later = {"arrived": now + 5, "granted": now + 6, "first": None, "last": None, "ended": now + 6}
    assert "load" not in spans_of(chat(**later), event)


def test_a_request_that_failed_early_has_what_it_came_to() -> None:
    spans = spans_of(chat(model=None, granted=None, first=None, last=None, status=404, outcome="model_not_found"))
    (span,) = spans.values()
    assert span.name == "POST /v1/chat/completions"
    assert not span.status.is_ok
    assert (span.attributes or {})["error.type"] == "model_not_found"


def test_the_clients_trace_goes_on() -> None:
    top = spans_of(chat(trace_parent=_PARENT))["chat m:1"]
    assert f"{top.context.trace_id:032x}" == _PARENT.split("-")[1]
    assert top.parent is not None
    assert f"{top.parent.span_id:016x}" == _PARENT.split("-")[2]
    assert spans_of(chat(trace_parent="no such thing"))["chat m:1"].parent is None


def test_a_client_that_does_not_sample_gets_no_spans() -> None:
    assert not spans_of(chat(trace_parent=_PARENT[:-1] + "0"))


def test_polls_are_not_traced() -> None:
    assert not spans_of(Exchange("id", "GET", "/metrics", arrived=1.0, ended=2.0, status=200))


# Settings


def test_a_missing_extra_is_told_where_traces_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_PACKAGES", ("opentelemetry.no_such_package",))
    asked = config.load({"traces": "http://127.0.0.1:4318"})
    with pytest.raises(MissingExtra) as told:
        traces.check(asked)
    assert told.value.hint == "pip install 'localfoundry[otel]'"
    traces.check(config.load())
    traces.check(config.load({"traces": "off"}))


def test_the_start_fails_without_the_extra_and_says_what_to_type(new_server: New, tmp_path: Path) -> None:
    """As in an installation without it: a folder that comes first makes the package one without parts."""
    (tmp_path / "first" / "opentelemetry").mkdir(parents=True)
    (tmp_path / "first" / "opentelemetry" / "__init__.py").touch()
    server = new_server(FOUNDRY_TRACES="http://127.0.0.1:4318", PYTHONPATH=tmp_path / "first")
    done = server.command("service", "start")
    assert done.returncode == 2, done.stderr
    assert "pip install 'localfoundry[otel]'" in done.stderr


@pytest.mark.parametrize(
    ("collector", "place"),
    [("http://a:4318", "http://a:4318/v1/traces"), ("http://a:4318/", "http://a:4318/v1/traces"),
     ("https://a/otlp/v1/traces", "https://a/otlp/v1/traces")],
)  # fmt: skip
def test_a_collectors_address_stands_for_its_place_for_traces(collector: str, place: str) -> None:
    assert traces._address(collector) == place


class _Receiver(HTTPServer):
    """Takes one delivery of spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Delivery)
        self.delivered: Future[tuple[str, ExportTraceServiceRequest]] = Future()


class _Delivery(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, _Receiver)
        if not self.server.delivered.done():
            self.server.delivered.set_result((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    made = _Receiver()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.parametrize("by", ["FOUNDRY_TRACES", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_spans_arrive_at_a_collector(new_server: New, receiver: _Receiver, by: str) -> None:
    """Over HTTP, as protobuf; a service that stops sends what it still has. No prompt is in it."""
    server = new_server(**{by: f"http://127.0.0.1:{receiver.server_port}"})
    server.fake("fake")
    server.start()
    body = {"model": "fake", "messages": [{"role": "user", "content": "my-secret-diary"}], "max_tokens": 2}
    answer = server.http.post("/v1/chat/completions", json=body, headers={"traceparent": _PARENT})
    assert answer.status_code == 200
    server.command("service", "stop")
    path, delivery = receiver.delivered.result(10)
    assert path == "/v1/traces"
    spans = [span for one in delivery.resource_spans for scope in one.scope_spans for span in scope.spans]
    mine = [span for span in spans if span.trace_id.hex() == _PARENT.split("-")[1]]
    assert mine
    assert b"my-secret-diary" not in delivery.SerializeToString()


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(new_server: New) -> None:
    """It once took 14.6 s to stop: the library sends, waits and tries again."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = new_server(FOUNDRY_TRACES=f"http://127.0.0.1:{silent.getsockname()[1]}")
        server.start()
        server.post("/v1/chat/completions", {}, 400)
        before = time.monotonic()
        assert server.command("service", "stop").returncode == 0
        assert time.monotonic() - before < 8

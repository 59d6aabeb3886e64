"""What the service counts, and the forms it says it in: Prometheus's text, OpenMetrics, and our own document."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from api.exchanges import exchange
from api.server import HELLO, Server
from harness import wait_until
from localfoundry.api.counters import RECENT_S, Counters, inter_token_s
from localfoundry.api.exchange import Exchange
from localfoundry.service.events import ModelEvent
from localfoundry.service.rate import Rate

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(server: Server) -> Samples:
    answer = server.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


# Counting


def test_a_request_is_counted_with_its_tokens_and_times() -> None:
    counters = Counters()
    counters.ended(exchange())
    assert counters.requests == {("m:1", "/v1/chat/completions", "200", "ok"): 1}
    assert counters.tokens == {("m:1", "prompt"): 7, ("m:1", "cached"): 3, ("m:1", "completion"): 11}
    assert counters.queue["m:1"].total == pytest.approx(1)
    assert counters.to_first_token["m:1"].total == pytest.approx(2)
    assert counters.between_tokens["m:1"].total == pytest.approx(0.1)


@pytest.mark.parametrize(
    "fields", [{"completion_tokens": 1}, {"completion_tokens": None}, {"first": None}, {"last": 102.0}], ids=str
)
def test_what_has_no_time_between_tokens_is_not_given_one(fields: dict[str, object]) -> None:
    assert inter_token_s(exchange(**fields)) is None


def test_labels_stay_few_whatever_clients_ask_for() -> None:
    """Names that are no model and paths that are no endpoint come from outside, without end."""
    counters = Counters()
    for number in range(1000):
        counters.ended(Exchange("id", "GET", f"/no/such/{number}", status=404))
    assert len(counters.requests) == 1
    assert counters.models == set()
    assert not counters.recent


def test_events_of_models_are_counted() -> None:
    counters = Counters()
    for kind in ("loaded", "load_failed", "unloaded", "evicted", "expired", "crashed", "hung"):
        counters.happened(ModelEvent(kind, "m:1", 0.3))
    assert counters.loads == {("m:1", "ok"): 1, ("m:1", "failed"): 1}
    assert counters.evictions == {("m:1", "room"): 1, ("m:1", "idle"): 1}
    assert counters.crashes == {("m:1", "crashed"): 1, ("m:1", "hung"): 1}
    assert counters.loading["m:1"].total == pytest.approx(0.3)


def test_a_minute_is_a_minute() -> None:
    counters = Counters()
    for ended in (100.0, 130.0, 159.0):
        counters.ended(exchange(ended=ended))
    assert [past.ended for past in counters.last_minute(160.0)[0]] == [100.0, 130.0, 159.0]
    assert [past.ended for past in counters.last_minute(100.1 + RECENT_S)[0]] == [130.0, 159.0]
    assert counters.last_minute(1000.0)[0] == []


@pytest.mark.parametrize("per_second", [0.5, 1, 20, 130])
def test_a_steady_stream_has_its_rate(per_second: float) -> None:
    rate = Rate()
    ended = 0
    for number in range(int(per_second * 20)):
        rate.add(1, 1000.3 + number / per_second)
        ended = number
    assert rate.per_second(1000.3 + ended / per_second) == pytest.approx(per_second, rel=0.2, abs=0.25)


def test_a_rate_begins_at_once_and_ends_soon() -> None:
    rate = Rate()
    assert rate.per_second(50.0) == 0
    rate.add(40, 50.9)
    assert rate.per_second(51.0) == 40
    assert rate.per_second(57.0) == 0
    rate.add(5, 300.0)
    assert rate.per_second(300.0) == 5, "amounts of an earlier turn of the clock are gone"


def test_what_writes_the_forms_is_not_part_of_the_start() -> None:
    """Neither is what sends traces: together they would add a third to it."""
    program = "import sys, localfoundry.api.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert "starlette" in done.stdout.split()
    assert not {"prometheus_client", "opentelemetry"} & set(done.stdout.split())


# Over HTTP


def test_a_scrape_tells_of_requests_loads_and_memory(server: Server) -> None:
    server.unload("fake")
    server.chat("fake", max_tokens=2)
    server.http.get("/v1/models/there/is/none")
    server.http.get("/nowhere/at/all")
    seen = scraped(server)
    by_endpoint = {dict(labels)["endpoint"]: dict(labels) for (name, labels) in seen if name.endswith("requests_total")}
    assert "/v1/chat/completions" in by_endpoint
    assert by_endpoint["/v1/models/{name:path}"]["outcome"] == "model_not_found"
    assert (by_endpoint["other"]["status"], by_endpoint["other"]["outcome"]) == ("404", "unknown_url")
    assert not [name for name in by_endpoint if "there/is" in name or "nowhere" in name]
    assert seen["localfoundry_model_loads_total", labelled(model="fake:1", result="ok")] >= 1
    assert seen["localfoundry_model_load_seconds_count", labelled(model="fake:1")] >= 1
    assert seen["localfoundry_model_memory_bytes", labelled(model="fake:1", kind="process")] > 1_000_000
    assert seen["localfoundry_requests_running", labelled(model="fake:1")] == 0
    assert seen["localfoundry_requests_waiting", labelled(model="fake:1")] == 0
    for name in ("limit", "others", "reserved", "claimed"):
        assert (f"localfoundry_memory_{name}_bytes", ()) in seen
    assert seen["process_resident_memory_bytes", ()] > 10_000_000
    assert seen["process_open_fds", ()] > 3
    assert seen["localfoundry_memory_limit_bytes", ()] > 0


def test_buckets_of_a_histogram_add_up(server: Server) -> None:
    server.unload("fake")
    server.chat("fake", max_tokens=1)
    seen = scraped(server)
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in seen.items()
        if name == "localfoundry_model_load_seconds_bucket" and dict(labels)["model"] == "fake:1"
    ]
    values = [value for _, value in sorted(buckets)]
    assert values == sorted(values)
    assert values[-1] == seen["localfoundry_model_load_seconds_count", labelled(model="fake:1")]


def test_a_model_that_is_unloaded_keeps_its_counters(server: Server) -> None:
    server.chat("fake", max_tokens=1)
    server.unload("fake")
    seen = scraped(server)
    assert seen["localfoundry_model_loads_total", labelled(model="fake:1", result="ok")] >= 1
    assert ("localfoundry_model_memory_bytes", labelled(model="fake:1", kind="process")) not in seen


def test_a_running_request_is_seen(server: Server) -> None:
    with server.streaming("fake", max_tokens=2000) as lines:
        next(lines)
        assert scraped(server)["localfoundry_requests_running", labelled(model="fake:1")] == 1
        assert server.get("/foundry/stats")["requests_running"] == 1
    wait_until(
        lambda: scraped(server)["localfoundry_requests_running", labelled(model="fake:1")] == 0, 5, "it still runs"
    )


def test_every_metric_is_documented_and_every_documented_one_is_there(server: Server) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    table = set(re.findall(r"`((?:localfoundry|process)_\w+)`", page.split("### Prometheus")[0]))
    rules = set(re.findall(r"\b((?:localfoundry|process)_\w+)", page.split("### Prometheus")[1]))
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    there = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert table == there
    assert {name.removesuffix("_bucket") for name in rules} <= there


def test_openmetrics_for_those_who_ask_for_it(server: Server) -> None:
    answer = server.http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "localfoundry_requests" in {family.name for family in openmetrics_families(answer.text)}


def test_the_last_minute_as_a_document(server: Server) -> None:
    server.chat("fake", max_tokens=1)
    told = server.get("/foundry/stats")
    assert told.keys() == {
        "version", "pid", "uptime_s", "window_s", "requests_per_s", "failed_per_s", "completion_tokens_per_s",
        "tokens_per_s", "time_to_first_token_s", "requests_running", "requests_waiting", "requests", "memory",
        "preparing",
    }  # fmt: skip
    assert told["pid"] == server.state.pid
    assert 1 <= told["window_s"] <= RECENT_S
    assert told["requests"] >= 1
    assert set(told["memory"]) == {"limit", "others", "reserve", "claimed", "free", "service"}


def test_what_is_loaded_says_what_runs_waits_and_is_claimed(server: Server) -> None:
    server.chat("fake", max_tokens=1)
    loaded = server.loaded("fake")
    assert loaded is not None
    assert loaded["requests_running"] == loaded["requests_waiting"] == 0
    assert isinstance(loaded["tokens_per_s"], int | float)
    assert loaded["memory"]["claimed"] >= 0


def test_how_fast_a_model_is_now_and_what_it_did_by_its_own_count(server: Server) -> None:
    server.fake("steady", tokens_per_second=100)
    for stream in (True, False):
        server.http.post(
            "/v1/chat/completions",
            json={"model": "steady", "messages": HELLO, "max_tokens": 60, "stream": stream},
        ).raise_for_status()
    loaded = server.loaded("steady")
    assert loaded is not None
    assert 40 < loaded["tokens_per_s"] <= 130
    told = server.http.get("/metrics").text
    assert 'localfoundry_tokens_total{kind="completion",model="steady:1"} 120.0' in told
    assert 'localfoundry_time_to_first_token_seconds_count{model="steady:1"} 2.0' in told
    assert 'localfoundry_inter_token_latency_seconds_count{model="steady:1"} 2.0' in told

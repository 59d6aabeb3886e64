"""`foundry bench` as it is typed: against a real service with fake models, and against endpoints that are not ours."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.clock_server import ClockServer, Script
from harness import Foundry, Result, private_services, wait_until
from localfoundry import config
from localfoundry.results.db import Results

KEY = "sk-very-secret-0123456789"


async def bench(foundry: Foundry, *arguments: str, **env: str) -> Result:
    return await asyncio.to_thread(foundry, "bench", *arguments, env=env)


def test_what_was_measured_is_kept_and_can_be_shown_exported_and_compared(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    fake_model("one", tokens_per_second=400)
    fake_model("two", tokens_per_second=100)
    measured = foundry.ok(
        "bench", "one", "two", "--rounds", "3", "--max-tokens", "12", "--slo", "ttft=30s", "--json"
    ).json
    assert [row["alias"] for row in measured["results"]] == ["one", "two"]
    names = {"latency_avg", "latency_p95", "tokens_per_sec_avg", "rounds", "first_token_latency_avg"}
    assert names <= set(measured["results"][0])
    assert measured["candidates"][0]["conditions"][0]["goodput"] == 1.0
    assert measured["candidates"][0]["memory"]["process"] > 0
    assert measured["energy"]["source"]
    run = measured["run"][-6:].lower()
    [listed] = foundry.ok("bench", "list", "--json").json["runs"]
    assert (listed["id"], listed["status"], listed["candidates"]) == (measured["run"], "finished", ["one", "two"])
    assert run in foundry.ok("bench", "list").out
    shown = foundry.ok("bench", "show", run).out
    assert "Goodput" in shown
    assert "Model Comparison Results:" in shown
    again = foundry.ok("bench", "show", "last", "--json").json
    assert again["results"] == measured["results"]
    assert again["candidates"][0]["samples"] == measured["candidates"][0]["samples"]
    assert again["candidate_rows"][0]["file_sha256"] == measured["candidates"][0]["file_sha256"]
    foundry.ok("bench", "export", run, "--csv", str(tmp_path / "r.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [(row["alias"], row["round"]) for row in rows[:3]] == [("one", "1"), ("one", "2"), ("one", "3")]
    assert float(rows[0]["ttft_s"]) > 0
    foundry.ok("bench", "export", run, str(tmp_path / "r.json"))
    assert json.loads((tmp_path / "r.json").read_text())["run"] == measured["run"]
    foundry.ok("bench", "baseline", "set", "good", run)
    assert foundry.ok("bench", "baseline", "list", "--json").json == {"baselines": {"good": measured["run"]}}
    changes = foundry.ok("bench", "diff", "good", run, "--json").json["changes"]
    assert {change["judgement"] for change in changes} <= {"no difference shown", "too noisy to conclude"}
    assert all(change["ratio"]["value"] == 1 for change in changes)
    unknown = foundry("bench", "show", "nothing-like-it")
    assert unknown.code == 2
    assert "no run is called 'nothing-like-it'" in unknown.err


def test_a_change_for_the_worse_is_exit_1(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("m", tokens_per_second=400)
    foundry.ok("bench", "m", "--rounds", "4", "--max-tokens", "30")
    foundry.ok("bench", "baseline", "set", "fast", "last")
    foundry.ok("model", "unload", "m")
    foundry.ok("cache", "remove", "m", "--yes")
    fake_model("m", tokens_per_second=60)
    found = foundry("bench", "check", "--baseline", "fast", "--json")
    assert found.code == 1, found.out + found.err
    assert found.json["verdict"] == "worse"
    # Faster is no change for the worse, whatever else is said of it.
    assert foundry("bench", "check", "--baseline", "last", "--run", "fast").code in (0, 7)


async def test_endpoints_stand_beside_each_other_with_their_costs_and_no_key_is_told(foundry: Foundry) -> None:
    """The key goes to the endpoint, and nowhere else: not into results, errors, or the list of processes."""
    async with ClockServer({"cheap": Script(tokens=6), "dear": Script(tokens=6, gap_s=0.02)}).running() as server:
        found = await bench(
            foundry, "--endpoint", f"{server.url}/v1", "--model", "cheap", "--endpoint", server.url, "--model", "dear",
            "--api-key-env", "SOME_KEY", "--price-in", "0.15", "--price-in", "3", "--price-out", "0.6", "--price-out",
            "15", "--currency", "USD", "--rounds", "2", "--set", "max_completion_tokens=6",
            "--set", "max_tokens=null", SOME_KEY=KEY,
        )  # fmt: skip
        assert found.code == 0, found.err
        assert {record.authorization for record in server.records} == {f"Bearer {KEY}"}
        assert all("max_tokens" not in record.body for record in server.records)
    assert "cheap@127.0.0.1" in found.out
    assert "Cost/1,000 USD" in found.out
    # 40 tokens in, 6 out.
    assert "0.0096" in found.out
    assert "0.21" in found.out
    shown = (await asyncio.to_thread(foundry.ok, "bench", "show", "last", "--json")).json
    costs = [candidate["conditions"][0]["cost"]["mean"] for candidate in shown["candidates"]]
    assert costs == [pytest.approx((40 * 0.15 + 6 * 0.6) / 1e6), pytest.approx((40 * 3 + 6 * 15) / 1e6)]
    assert KEY not in found.out + found.err + json.dumps(shown)
    for file in config.load().home.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file.name


async def test_an_endpoint_that_quotes_the_key_does_not_get_it_into_our_words(foundry: Foundry) -> None:
    async with ClockServer({"m": Script(status=401)}).running() as server:
        server.says = f"the key {KEY} is wrong"
        model = ("--endpoint", server.url, "--model", "m", "--api-key-env", "K")
        found = await bench(foundry, *model, "--rounds", "1", K=KEY)
    assert "HTTP 401: no model m the key [key] is wrong" in found.out
    assert KEY not in found.out + found.err
    with Results(config.load().home / "results.db") as results:
        assert KEY not in json.dumps([row.raw for row in results.samples(results.run("last").id)])


async def test_an_endpoint_that_dies_midway_is_a_result_and_the_other_goes_on(foundry: Foundry) -> None:
    async with ClockServer({"dies": Script(fails_after=4), "lives": Script()}).running() as server:
        found = await bench(
            foundry, "--endpoint", server.url, "--model", "dies", "--endpoint", server.url, "--model", "lives",
            "--rounds", "6", "--json",
        )  # fmt: skip
    assert found.code == 0
    dies, lives = found.json["candidates"]
    assert "HTTP 500" in dies["error"]
    # The warm-up is thrown away, three rounds were good, and the failed request is kept.
    assert [sample["error"] is None for sample in dies["samples"]] == [True, True, True, False]
    assert len(lives["samples"]) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "needs its --model"),
        (["m", "--price-in", "1"], "belongs to an --endpoint"),
        (["--endpoint", "https://a:b@h/v1", "--model", "m"], "a key is named by --api-key-env"),
        (["--endpoint", "http://h", "--model", "a", "--price-in", "1", "--price-in", "2"], "2 times for 1"),
        (["--endpoint", "http://h", "--model", "m", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["m", "--scenario", "poetry"], "there is no scenario 'poetry'; there are chat,"),
        (["m", "--concurrency", "1,two"], "--concurrency 1,two: not a list of numbers"),
        (["m", "--rate", "0"], "rate 0"),
        (["m", "--duration", "soon"], "--duration: 'soon' is not a duration"),
        (["m", "--slo", "fast"], "'fast' is no bound"),
        (["m", "--prompts", "nothing.txt"], "the prompts of nothing.txt cannot be read"),
        (["m", "--set", "a=b"], "is not JSON"),
        (["m", "m"], "a model is named twice"),
        ([], "no model was named"),
        (["--resume", "nothing"], "no run is called"),
        (["export", "last", "--csv", "--json"], "either CSV or JSON"),
        (["baseline", "set", "x"], "needs a name and a run"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    foundry: Foundry, arguments: list[str], said: str
) -> None:
    found = foundry("bench", *arguments)
    assert found.code == 2, found.err
    assert said in found.err
    assert found.out == ""


def test_the_environment_of_the_courses_script_counts_and_flags_win(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    fake_model("one")
    fake_model("two")
    env = {
        "BENCH_MODELS": "one, two", "BENCH_ROUNDS": "2", "BENCH_PROMPT": "Explain edge AI in one sentence.",
        "BENCH_STREAM": "0", "BENCH_MAX_TOKENS": "5", "BENCH_TEMPERATURE": "0.5",
    }  # fmt: skip
    told = foundry.ok("bench", "--json", env=env).json
    assert [(row["alias"], row["rounds"]) for row in told["results"]] == [("one", 2), ("two", 2)]
    assert told["results"][0]["first_token_latency_avg"] is None, "an answer in one piece has no first token"
    assert told["results"][0]["latency_avg"] > 0
    assert (told["settings"]["stream"], told["settings"]["temperature"]) == (False, 0.5)
    sample = told["candidates"][0]["samples"][0]
    assert (sample["completion_tokens"], sample["prompt_tokens"]) == (5, 7)
    flags = foundry.ok("bench", "two", "--rounds", "1", "--stream", "--max-tokens", "3", "--json", env=env).json
    assert [(row["alias"], row["rounds"]) for row in flags["results"]] == [("two", 1)]
    assert flags["candidates"][0]["samples"][0]["completion_tokens"] == 3
    assert flags["results"][0]["first_token_latency_avg"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent Ctrl-C there")
def test_ctrl_c_keeps_what_was_measured_and_the_run_goes_on(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    fake_model("m", tokens_per_second=100)
    path = config.load().home / "results.db"
    process = subprocess.Popen(
        [Foundry.executable, "bench", "m", "--rounds", "6", "--max-tokens", "25"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def kept() -> int:
        if not path.exists():
            return 0
        with Results(path) as results:
            return sum(len(results.samples(run.id)) for run in results.runs())

    wait_until(lambda: kept() >= 2 or process.poll() is not None, 30, "nothing was measured")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "to go on: foundry bench run --resume" in err
    assert "Model Comparison Results:" in out, "what was measured is reported"
    before = kept()
    assert 2 <= before < 6
    told = foundry.ok("bench", "run", "--resume", "last", "--json").json
    assert [sample["round"] for sample in told["candidates"][0]["samples"]] == [1, 2, 3, 4, 5, 6]
    assert kept() == 6
    complete = foundry("bench", "run", "--resume", "last")
    assert (complete.code, "is complete" in complete.err) == (2, True)


def test_a_cold_start_has_a_service_of_its_own_and_leaves_the_one_in_use_alone(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    fake_model("one")
    fake_model("two", load_s=0.4)
    pid = foundry.ok("service", "start").out.split("PID ")[1].split("!")[0]
    once = ("--rounds", "1", "--max-tokens", "3")
    found: Any = foundry.ok("bench", "one", "two", *once, "--cold", "--json", timeout=100).json
    assert foundry.ok("service", "status", "--json").json["pid"] == int(pid)
    figures = {
        (candidate["label"], one["scenario"]): one["metrics"]["ttft_s"]["median"]
        for candidate in found["candidates"]
        for one in candidate["conditions"]
    }
    assert set(figures) == {(label, scenario) for label in ("one", "two") for scenario in ("chat", "cold", "switch")}
    assert figures["two", "cold"] > 0.4, "the load is in the time"
    assert figures["two", "switch"] > 0.4
    assert figures["one", "cold"] > figures["one", "chat"]
    assert private_services() == [], "nothing of it is left running"


def test_a_prompt_that_is_too_long_fails_its_scenario_and_not_the_others(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    fake_model("m")
    foundry.ok("config", "set", "models.m.context", "256")
    scenarios = ("--scenario", "long-prompt", "--scenario", "chat")
    told = foundry.ok("bench", "m", *scenarios, "--rounds", "2", "--max-tokens", "4", "--json").json
    long, chat = told["candidates"][0]["conditions"]
    assert "HTTP 400: the prompt has" in long["error"]
    assert (chat["error"], chat["requests"]) == (None, 2)

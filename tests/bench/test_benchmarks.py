"""The benchmark scripts run through from start to JSON; what they find in so short a time means nothing.

Those that only ask are run against a stand-in, those that load, switch and kill against the real service.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in needs a shell and Unix sockets")


@pytest.fixture
def command(tmp_path: Path) -> Path:
    script = tmp_path / "foundry"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/bench/stand_in.py"}" "$@"\n')
    script.chmod(0o755)
    return script


def run(script: str, command: Path, *options: str) -> tuple[str, dict[str, Any]]:
    return measure(script, command.with_name("out.json"), "--foundry", str(command), *options)


def measure(script: str, file: Path, *options: str) -> tuple[str, dict[str, Any]]:
    arguments = [sys.executable, str(ROOT / "benchmarks" / script), "--json", str(file), *options]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


def results(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in found["results"]}


def test_startup(command: Path) -> None:
    printed, found = run("startup.py", command, "--rounds", "2")
    results = {line["name"]: line for line in found["results"]}
    assert set(results) >= {
        "foundry service start",
        "service memory, no model",
        "cold first token, less the engine",
        "foundry --version / python -c pass",
    }
    for name, line in results.items():
        assert name in printed
        assert line["median"] > 0
    assert results["engine's own load"]["median"] == pytest.approx(0.01)
    assert {len(values) for values in found["raw"].values()} == {2}


def test_proxy(command: Path) -> None:
    printed, found = run("proxy.py", command, "--repetitions", "2", "--per-stream", "2", "--tokens", "9")
    names = [line["name"] for line in found["results"]]
    assert "throughput lost, 1 stream" in names
    assert "TTFT added, 8 streams" in names
    assert "goal <=" in printed
    assert "note:" not in printed, "all answers have the length asked for"
    blocks = found["raw"]
    assert [(b["repetition"], b["streams"], b["side"]) for b in blocks[:6]] == [
        (1, 1, "direct"),
        (1, 1, "service"),
        (1, 8, "direct"),
        (1, 8, "service"),
        (1, 32, "direct"),
        (1, 32, "service"),
    ]
    assert [b["side"] for b in blocks[6:8]] == ["service", "direct"], "the order alternates"
    assert [len(b["answers"]) for b in blocks[:6]] == [2, 2, 16, 16, 32, 32]


def test_listing(command: Path) -> None:
    printed, found = run("listing.py", command, "--rounds", "2", "--versions", "10")
    assert [line["name"] for line in found["results"]][:2] == ["Store.manifests()", 'Store.find("alias")']
    assert "goal <= 0.2" in printed
    assert {len(values) for values in found["raw"].values()} == {2}


def test_load(isolated: Path, fake_model: Callable[..., str]) -> None:
    home = ("--home", str(isolated / "foundry"), "--model", fake_model())
    small = ("--rounds", "1", "--rates", "200", "400", "--streams", "4", "--seconds", "0.5", "--tokens", "4")
    _, found = measure("load.py", isolated / "out.json", *home, *small)
    lines = results(found)
    assert {"400 tok/s: service's CPU per token", "wall time, 4 at once / one", "back, --keep-state / without"} <= set(
        lines
    )
    steps = found["raw"]["ceiling"]["steps"]
    assert [(step["rate"], step["side"], step["tokens"]) for step in steps] == [
        (rate, side, rate // 2) for rate in (200, 400) for side in ("direct", "service")
    ]
    assert [len(answers) for answers in (r["answers"] for r in found["raw"]["parallel"]["four"])] == [4]
    assert lines["tokens of an answer"]["values"] == [4] * 5
    assert {switch["kept"] for switch in found["raw"]["switching"]["switches"]} == {True, False}


def test_soak_of_short_requests(isolated: Path, fake_model: Callable[..., str]) -> None:
    home = ("--home", str(isolated / "foundry"), "--model", fake_model())
    _, found = measure("soak.py", isolated / "out.json", *home, "--requests", "50", "--cycles", "10")
    counts = {kind["kind"]: len(kind["waits_s"]) for kind in found["raw"]["waits"] if kind["outcome"] == "ok"}
    assert counts["plain, fake"] + counts["streamed, fake"] == 50
    assert (counts["load"], counts["unload"]) == (10, 10)
    assert results(found)["lost"]["verdict"] == "met"


@pytest.mark.usefixtures("starter")
def test_soak_of_everything(isolated: Path) -> None:
    home = ("--home", str(isolated / "foundry"))
    short = ("--minutes", "0.1", "--fault-every", "2.5", "--sample-every", "0.5", "--clients", "4")
    printed, found = measure("soak.py", isolated / "out.json", *home, *short)
    assert "longest" in printed
    assert found["raw"]["faults"][0]["what"] == "killed"
    assert found["raw"]["lost"] == []
    assert all(fault["until_s"] > fault["began_s"] for fault in found["raw"]["faults"])
    assert len(found["raw"]["samples"]) > 8

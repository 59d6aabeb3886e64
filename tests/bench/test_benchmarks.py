"""The benchmark scripts run through from start to JSON, against a stand-in; what they find there means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
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
    file = command.with_name("out.json")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / script),
            "--foundry",
            str(command),
            "--json",
            str(file),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


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
    assert [(b["repetition"], b["streams"], b["side"]) for b in blocks[:4]] == [
        (1, 1, "direct"),
        (1, 1, "service"),
        (1, 8, "direct"),
        (1, 8, "service"),
    ]
    assert [b["side"] for b in blocks[4:6]] == ["service", "direct"], "the order alternates"
    assert [len(b["answers"]) for b in blocks[:4]] == [2, 2, 16, 16]


def test_listing(command: Path) -> None:
    printed, found = run("listing.py", command, "--rounds", "2", "--versions", "10")
    assert [line["name"] for line in found["results"]][:2] == ["Store.manifests()", 'Store.find("alias")']
    assert "goal <= 0.2" in printed
    assert {len(values) for values in found["raw"].values()} == {2}

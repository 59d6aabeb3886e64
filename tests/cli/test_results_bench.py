"""What `foundry bench` keeps is what `foundry results` shares: by the real commands, on a fake model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness import Foundry
from localfoundry import config
from localfoundry.results import evidence


def test_a_bench_is_shared_and_is_evidence(foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path) -> None:
    model = fake_model("fast", tokens_per_second=2000)
    foundry.ok("bench", model, "--rounds", "6", "--max-tokens", "8", "--json", timeout=90)
    file = tmp_path / "models.json"
    foundry.ok("results", "export", str(file), "--by", "ann")
    assert "is sound: 1 run" in foundry.ok("results", "validate", str(file)).out
    assert str(Path.home()) not in file.read_text("utf-8")
    (run,) = foundry.ok("results", "show", str(file), "--json").json["runs"]
    assert run["machine"]["cpu"] and run["machine"]["memory_bytes"] > 0, "by which machines are told apart"
    (speed,) = run["speed"]
    assert (speed["requests"], speed["ttft_s"]["n"]) == (6, 6)
    sha = run["candidates"][0]["file_sha256"]
    found = evidence.known(config.load().home).of(file_sha256=sha).speeds
    assert {one.metric for one in found} == {"ttft_s", "itl_s", "latency_s"}
    assert {one.source for one in found} == {"measured here"}

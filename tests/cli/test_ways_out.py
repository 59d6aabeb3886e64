"""A model that does not fit, as a person meets it: figures, force, and a warning before a download."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from formats.gguf_file import tiny_llama
from harness import Foundry
from localfoundry import config, instance

MB = 1_000_000


def url() -> str:
    state = instance.running(config.load())
    assert state is not None
    return state.url


def test_force_says_what_may_happen_and_is_shown(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    name = fake_model("large", memory_bytes=10**15)
    foundry.ok("service", "start")
    refused = foundry("model", "load", name)
    assert refused.code == 2
    assert f"foundry model run {name}:1 --ctx 8192 --force" in refused.err
    loaded = foundry.ok("model", "load", name, "--force")
    assert "was loaded by force" in loaded.err and "foundry model unload" in loaded.err
    assert foundry.ok("model", "run", name, "--force", "-p", "hi").out
    assert [m["forced"] for m in httpx2.get(f"{url()}/foundry/ps", trust_env=False).json()] == [True]


def test_the_refusal_over_http_has_figures_and_commands(
    foundry: Foundry, fake_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_OFFLINE", "1")  # only what is here is advised
    name, small = fake_model("large", memory_bytes=10**15), fake_model("small", memory_bytes=MB)
    foundry.ok("service", "start")
    chat = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
    with httpx2.Client(base_url=url(), trust_env=False, timeout=30) as client:
        answers = [
            client.post("/v1/chat/completions", json=chat), client.post("/foundry/load", json={"model": name}),
            client.get(f"/openai/load/{name}"), client.get(f"/models/load/{name}"),
        ]  # fmt: skip
        for answer in answers:
            error: dict[str, Any] = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "insufficient_memory")
            assert error["need_bytes"] == 10**15 > error["free_bytes"]
            assert ("model", small) in [(way["kind"], way["model"]) for way in error["ways_out"]]
            assert all(shlex.split(way["command"])[:3] == ["foundry", "model", "run"] for way in error["ways_out"])
            assert "/" not in answer.text
        forced = client.post("/foundry/load", json={"model": name, "force": True})
        assert forced.json()["forced"] is True


@pytest.mark.parametrize("context", ["0", "-5", "abc", "8 apples", "1e9", "99999999999999999999"])
def test_a_context_that_is_no_number_of_tokens_is_refused_by_name(
    foundry: Foundry, fake_model: Callable[..., str], context: str
) -> None:
    refused = foundry("model", "load", fake_model(), "--ctx", context)
    assert refused.code == 2
    assert "--ctx" in refused.err or "context" in refused.err
    assert context in refused.err or "context" in refused.err


def test_a_download_that_can_never_run_here_is_warned_of(
    foundry: Foundry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama())
    assert foundry.ok("model", "download", str(path), "--dry-run", "--json").json["tooLarge"] is None
    monkeypatch.setenv("FOUNDRY_MEMORY_LIMIT", str(20 * MB))
    monkeypatch.setenv("FOUNDRY_MEMORY_RESERVE", "0")
    told = foundry.ok("model", "download", str(path), "--dry-run", "--json").json["tooLarge"]
    assert told["needBytes"] > told["memoryBytes"] == 20 * MB
    assert told["waysOut"] == []
    assert "cannot run on this machine" in foundry.ok("model", "download", str(path), "--dry-run").err
    pulled = foundry.ok("model", "download", str(path))
    assert "cannot run on this machine" in pulled.err, "a warning"
    assert "verified and in the local cache" in pulled.out, "and no refusal"

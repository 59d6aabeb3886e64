"""What happens to a real engine over time: it is switched, hangs, is crowded, and goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.server import Server
from harness import wait_until
from localfoundry.store.manifest import Manifest

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("starter")]

STARTER = "smollm2-135m"
_CACHE = Path(__file__).parents[2] / ".cache" / "test-models"
LONG: Any = [{"role": "user", "content": "Remember these: " + ", ".join(f"item {n}" for n in range(60))}]


@pytest.fixture(scope="module")
def real(
    engine: str, starter_store: Path, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    made = Server(
        tmp_path_factory.mktemp("real"), FOUNDRY_CONTEXT_LENGTH=2048, FOUNDRY_HANG_TIMEOUT=2, FOUNDRY_ENGINE=engine
    )
    made.has(starter_store)
    made.start()
    made.http.timeout = 100
    made.fake("other")
    yield made
    made.stop()


def usage(real: Server) -> dict[str, Any]:
    answer = real.chat(STARTER, messages=LONG, max_tokens=4, temperature=0)
    return dict(answer["usage"])


def cached(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_a_second_request_with_the_same_prefix_says_what_was_cached(real: Server, engine: str) -> None:
    real.get("/openai/unloadall")
    assert cached(usage(real)) == 0
    second = usage(real)
    left = 1 if engine == "llama.cpp" else 32  # others keep whole blocks of tokens
    assert cached(second) >= second["prompt_tokens"] - left


@pytest.mark.engines("llama.cpp")  # the only one that saves its conversations
def test_a_switch_and_back_keeps_a_conversation_when_that_was_asked_for(real: Server) -> None:
    real.get("/openai/unloadall")
    real.post("/foundry/load", {"model": STARTER, "keep_state": True})
    usage(real)
    real.post("/foundry/load", {"model": "other"})
    wait_until(lambda: real.loaded(STARTER) is None, 5, "the other model does not replace it")
    again = usage(real)
    assert cached(again) >= again["prompt_tokens"] - 1
    folder = real.settings.home / "state"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.rglob("*.bin")), "what was restored is not left on the disk"


@pytest.mark.engines("llama.cpp")
def test_without_being_asked_nothing_of_a_conversation_is_kept(real: Server) -> None:
    real.get("/openai/unloadall")
    usage(real)
    real.post("/foundry/load", {"model": "other"})
    wait_until(lambda: real.loaded(STARTER) is None, 5, "the other model does not replace it")
    assert cached(usage(real)) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_hung_engine_is_replaced(real: Server) -> None:
    model = real.post("/foundry/load", {"model": STARTER})
    os.kill(model["pid"], signal.SIGSTOP)
    wait_until(lambda: real.loaded(STARTER) is None, 15, "the hung worker is still there")
    assert usage(real)["completion_tokens"] == 4

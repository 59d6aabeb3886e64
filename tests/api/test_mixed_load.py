"""Long prompts beside short streams, on the real model: no stream stands still while a long prompt is computed.

Told by the order of events and not by a clock: how many tokens each stream got between the moment that the long
prompts were sent and the first token of the last of them. An engine that computes a prompt in one piece gives one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from api.server import Server
from harness import wait_until
from localfoundry.store.manifest import Manifest

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("starter")]

AT_ONCE = ()  # beside `tests/workers/test_openvino.py`, which has a smaller one
STARTER = "smollm2-135m"
STREAMS = 3
LONG_WORDS = (530, 630)  # of three tokens: 1,500 to 1,900 tokens
LEAST = 4  # tokens that each stream gets meanwhile; parts of at most 512 tokens give it six
WAIT_S = 500


@pytest.fixture(scope="module")
def real(
    engine: str, request: pytest.FixtureRequest, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    made = Server(
        tmp_path_factory.mktemp("mixed"), FOUNDRY_CONTEXT_LENGTH=8192, FOUNDRY_PARALLEL=8, FOUNDRY_ENGINE=engine,
        FOUNDRY_FIRST_TOKEN_TIMEOUT=WAIT_S,
    )  # fmt: skip
    made.has(request.getfixturevalue("starter_store"))
    if engine == "llama.cpp":
        one = {"engineArguments": ["--threads", "1", "--threads-batch", "1"]}
        made.settings.file.write_text(json.dumps({"models": {STARTER: one}}))
    made.start()
    made.http.timeout = WAIT_S
    made.post("/foundry/load", {"model": STARTER})
    loaded = made.loaded(STARTER)
    assert loaded is not None and loaded["engine_name"] == engine
    yield made
    made.stop()


class Seen:
    """Tokens of each request, in the order in which they came to all."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def follow(self, name: str, lines: Iterator[str], stop: threading.Event) -> None:
        for line in lines:
            data = line.removeprefix("data: ")
            if stop.is_set() or data == "[DONE]":
                return
            if data == ":":  # llama.cpp says every half minute that it is still there
                continue
            event = json.loads(data)
            assert "error" not in event, data
            if any(choice["delta"].get("content") for choice in event["choices"]):
                self.order.append(name)

    def count(self, name: str) -> int:
        return self.order.count(name)


def _prompt(words: int, salt: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": " ".join(f"w{(n * 7919 + salt) % 97}" for n in range(words))}]


@pytest.mark.timeout(1200)
def test_streams_go_on_while_long_prompts_are_computed(real: Server) -> None:
    seen, stop = Seen(), threading.Event()
    sizes = [
        real.post("/v1/chat/completions/tokenizer/encode/count", {"model": STARTER, "messages": _prompt(words, salt)})
        for salt, words in enumerate(LONG_WORDS)
    ]
    assert all(1500 <= size["tokenCount"] <= 1900 for size in sizes), sizes
    with ThreadPoolExecutor(8) as pool, ExitStack() as opened:
        opened.callback(stop.set)
        short = [f"short {number}" for number in range(STREAMS)]
        for number, name in enumerate(short):
            messages = [{"role": "user", "content": f"Tell a story about the number {number}."}]
            lines = opened.enter_context(real.streaming(STARTER, messages=messages, max_tokens=1000, ignore_eos=True))
            pool.submit(seen.follow, name, lines, stop)
        wait_until(lambda: all(seen.count(name) >= 3 for name in short), WAIT_S, "the streams do not begin")
        before = len(seen.order)
        long = [f"long {salt}" for salt in range(len(LONG_WORDS))]
        asked = [
            pool.submit(_ask, real, seen, name, _prompt(words, salt), stop)
            for salt, (name, words) in enumerate(zip(long, LONG_WORDS, strict=True))
        ]
        for one in asked:
            one.result()
        until = max(seen.order.index(name) for name in long)
        stop.set()
    meanwhile = seen.order[before:until]
    counts = {name: meanwhile.count(name) for name in short}
    print(counts, "tokens meanwhile")
    assert min(counts.values()) >= LEAST, counts


def _ask(real: Server, seen: Seen, name: str, messages: list[dict[str, Any]], stop: threading.Event) -> None:
    with real.streaming(STARTER, messages=messages, max_tokens=8, ignore_eos=True) as lines:
        seen.follow(name, lines, stop)

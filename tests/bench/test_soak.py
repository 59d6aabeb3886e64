"""What the soak benchmark counts as lost: its checks are checked, since one that cannot fail would prove nothing."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/, which are scripts side by side and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield SimpleNamespace(
        **{name: importlib.import_module(name) for name in ("wire", "mix", "disturb", "soak", "watch")}
    )
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@asynccontextmanager
async def answering(payload: bytes, header: bytes, status: bytes = b"200 OK") -> AsyncIterator[str]:
    """The address of a server that gives every request the same answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + header + b"\r\n\r\n" + payload)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def events(words: str, tokens: int, model: str = "quick:1") -> list[dict[str, Any]]:
    return [
        {"model": model, "choices": [{"delta": {"content": words}}]},
        {"model": model, "choices": [], "usage": {"completion_tokens": tokens}},
    ]


def stream_of(documents: list[dict[str, Any]], *, done: bool = True, end: bool = True) -> bytes:
    text = b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)
    text += b"data: [DONE]\n\n" if done else b""
    return b"%x\r\n%s\r\n" % (len(text), text) + (b"0\r\n\r\n" if end else b"")


async def streamed(scripts: SimpleNamespace, payload: bytes, *, echoes: bool = True) -> None:
    """Two tokens are asked for, with mark0, of `quick`."""
    async with answering(payload, b"Transfer-Encoding: chunked") as address:
        mix = scripts.mix.Mix(scripts.wire.Target.of(address), random.Random(1), ("quick",), "slow", echoes=echoes)
        await scripts.mix.stream(mix, "quick", 2, 3)


async def test_a_right_answer_is_right(scripts: SimpleNamespace) -> None:
    await streamed(scripts, stream_of(events("mark1 mark1", 2)))


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (stream_of(events("mark1 mark1", 2), end=False), "without its end"),
        (stream_of(events("mark1 mark1", 2), done=False), "without its end"),
        (stream_of(events("mark1", 2)), "got 1 words"),
        (stream_of(events("mark7 mark7", 2)), "got 2 words: mark7"),
        (stream_of(events("mark1 mark1", 3)), "usage is"),
        (stream_of(events("mark1 mark1", 2, model="other:1")), "answered by other"),
    ],
)
async def test_a_wrong_answer_is_wrong(scripts: SimpleNamespace, payload: bytes, says: str) -> None:
    with pytest.raises(scripts.mix.Wrong, match=says):
        await streamed(scripts, payload)


async def test_an_error_inside_a_stream_is_an_error(scripts: SimpleNamespace) -> None:
    error = {"error": {"code": "worker_crashed"}}
    with pytest.raises(scripts.mix.Refused, match="worker_crashed"):
        await streamed(scripts, stream_of([*events("mark1", 1), error]))


async def test_a_body_shorter_than_announced_is_cut(scripts: SimpleNamespace) -> None:
    async with answering(b'{"a"', b"Content-Length: 9") as address:
        reply = await scripts.wire.send(scripts.wire.Target.of(address), "GET", "/")
    assert not reply.whole


@pytest.mark.parametrize(("code", "fault", "outcome"), [
    ("worker_crashed", "this", "worker_crashed"),
    ("worker_crashed", "other", "lost"),
    ("worker_crashed", None, "lost"),
    ("queue_full", "this", "lost"),
])  # fmt: skip
async def test_only_a_crash_that_was_provoked_is_counted_apart(
    scripts: SimpleNamespace, code: str, fault: str | None, outcome: str
) -> None:
    mix = scripts.mix.Mix(scripts.wire.Target(), random.Random(1), (), "")
    disturber = scripts.disturb.Disturber(mix, 0, ())
    if fault is not None:
        disturber.faults.append(scripts.disturb.Fault("killed", fault, time.perf_counter()))
    soak = scripts.soak.Soak(mix, disturber, SimpleNamespace(began=0.0), 1, ())

    async def refused() -> None:
        raise scripts.mix.Refused(code, 503)

    await soak.one("any", "this", refused)
    assert {key: len(waits) for key, waits in soak.tally.waits_s.items()} == {("any", outcome): 1}
    assert len(soak.tally.lost) == (outcome == "lost")


def test_the_slope_of_memory_is_found_with_an_interval_around_it(scripts: SimpleNamespace) -> None:
    draw = random.Random(3)
    grows = [
        scripts.watch.Sample(10.0 * n, round(40e6 + 10.0 * n / 3600 * 2e6 + draw.gauss(0, 20e3)), 15, 3, 1, 4, 0)
        for n in range(180)
    ]
    slope, interval = scripts.watch.slope_per_hour(grows)
    assert slope == pytest.approx(2e6, rel=0.1)
    assert 2e6 in interval
    assert 0 not in interval
    assert scripts.watch.slope_per_hour(grows[:7]) is None
    assert scripts.watch.slope_per_hour(grows[:30]) is None, "290 s say nothing of an hour"

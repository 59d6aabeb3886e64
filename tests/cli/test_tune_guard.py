"""What the guard of `foundry tune` asks, and of whom: engines that are played answer at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from localfoundry.bench.candidates import Candidate
from localfoundry.cli.tune_guard import Guard
from localfoundry.quality import probe
from localfoundry.quality.reference import Packed, Reference
from localfoundry.tuning.space import Setting

BASE, FIRST, SECOND = (Setting("fake", name, name) for name in ("base", "first", "second"))
SAYS = {number: math.log(1 / 64) for number in range(64)}


class Played:
    """Stands for the services and their clients: who is asked what, and who is at work at the same time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.at_work: list[str] = []

    async def load(self, candidate: Candidate) -> float:
        return 0.0

    @contextlib.asynccontextmanager
    async def client(self, label: str) -> AsyncIterator[str]:
        yield label

    async def top(self, client: str, model: str, prompt: Sequence[int]) -> dict[int, float]:
        self.at_work.append(client)
        assert set(self.at_work) == {client}, "two engines compute beside each other"
        await asyncio.sleep(0)
        self.asked.append((model, tuple(prompt)))
        self.at_work.remove(client)
        return SAYS


def reference() -> Reference:
    """Four chunks that are not equally long, with nine scored positions."""
    chunks = ((1, 2, 3, 4, 5), (6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16, 17))
    count = sum(len(chunk) - 2 for chunk in chunks)
    rows = {
        "ids": struct.pack("<64I", *range(64)), "logprobs": struct.pack("<64e", *SAYS.values()),
        "tail": struct.pack("<f", 0.0), "target": struct.pack("<f", SAYS[0]),
    }  # fmt: skip
    arrays = {name: row * count for name, row in rows.items()}
    return Reference(Packed((), "", "played", {}, chunks, first=2, top=64, greedy=(), **arrays))


async def test_one_engine_is_asked_after_the_other_and_the_default_once(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played()
    monkeypatch.setattr(probe, "top", played.top)
    guard = Guard(played, reference(), 0.02)  # type: ignore[arg-type]
    for candidate in (FIRST, SECOND):
        verdict = await guard.compare(BASE, candidate, time.monotonic() + 60)
        assert not verdict.within, "nine positions prove nothing"
    asked = [model for model, _ in played.asked]
    assert {name: asked.count(name) for name in asked} == {"base": 9, "first": 9, "second": 9}
    assert len(set(played.asked)) == len(played.asked), "nobody is asked the same twice"

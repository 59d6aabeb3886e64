"""What the guard of `foundry tune` asks, and of whom: engines that are played answer at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from localfoundry.bench.candidates import Candidate
from localfoundry.cli.tune_guard import Guard
from localfoundry.errors import ServiceError
from localfoundry.quality import probe
from localfoundry.quality.fidelity import Position
from localfoundry.quality.probe import NoLogprobs
from localfoundry.quality.reference import Packed, Reference
from localfoundry.tuning.space import Setting

BASE, FIRST, SECOND = (Setting("fake", name, name) for name in ("base", "first", "second"))
SAYS = {number: math.log(1 / 64) for number in range(64)}


class Played:
    """Stands for the services and their clients: who is asked what, and who is at work at the same time.

    `scorers`: versions that score passages; `moved`: by how much they find a token less likely.
    """

    def __init__(self, scorers: Sequence[str] = (), moved: float = 0.0) -> None:
        self.scorers, self.moved = scorers, moved
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.passages: list[tuple[str, tuple[int, ...]]] = []
        self.at_work: list[str] = []
        self.there = 0  # services that score
        self.fails: Exception | None = None
        self.says: dict[int, float] = SAYS

    async def load(self, candidate: Candidate) -> float:
        return 0.0

    @contextlib.asynccontextmanager
    async def client(self, label: str) -> AsyncIterator[str]:
        yield label

    @contextlib.asynccontextmanager
    async def scoring(self, setting: Setting) -> AsyncIterator[str | None]:
        self.there += 1
        try:
            yield setting.label if setting.version in self.scorers else None
        finally:
            self.there -= 1

    async def scores(self, client: str, model: str, passage: Sequence[int]) -> list[float]:
        self.passages.append((model, tuple(passage)))
        if self.fails is not None:
            raise self.fails
        return [SAYS[0] - self.moved] * (len(passage) - 1)

    async def top(self, client: str, model: str, prompt: Sequence[int], target: int) -> dict[int, float]:
        self.at_work.append(client)
        assert set(self.at_work) == {client}, "two engines compute beside each other"
        await asyncio.sleep(0)
        self.asked.append((model, tuple(prompt)))
        self.at_work.remove(client)
        return self.says


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Played, Guard]]:
    def start(*scorers: str, moved: float = 0.0) -> tuple[Played, Guard]:
        played = Played(scorers, moved)
        monkeypatch.setattr(probe, "top", played.top)
        monkeypatch.setattr(probe, "scores", played.scores)
        return played, Guard(played, reference(), 0.02)  # type: ignore[arg-type]

    return start


Play = Callable[..., tuple[Played, Guard]]


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


async def test_one_engine_is_asked_after_the_other_and_the_default_once(play: Play) -> None:
    played, guard = play()
    for candidate in (FIRST, SECOND):
        verdict = await guard.compare(BASE, candidate, time.monotonic() + 60)
        assert not verdict.within, "nine positions prove nothing"
    asked = [model for model, _ in played.asked]
    assert {name: asked.count(name) for name in asked} == {"base": 9, "first": 9, "second": 9}
    assert len(set(played.asked)) == len(played.asked), "nobody is asked the same twice"


async def positions(guard: Guard, base: Setting, candidate: Setting) -> list[Position]:
    found, unavailable = await guard._positions(base, candidate, time.monotonic() + 60)
    assert unavailable is None
    return found


async def test_an_engine_that_scores_passages_is_not_asked_position_by_position(play: Play) -> None:
    played, guard = play("first", moved=0.01)
    found = await positions(guard, BASE, FIRST)
    assert [round(one.log_ratio, 6) for one in found] == [0.01] * 9
    assert all(one.kl is None and one.top1 is None for one in found), "of the other tokens nothing is known"
    assert {model for model, _ in played.asked} == {"base"}
    assert [passage for _, passage in played.passages] == list(reference().chunks)
    assert played.there == 0, "a service was left behind"


async def test_where_both_score_nothing_is_asked(play: Play) -> None:
    played, guard = play("base", "first")
    assert len(await positions(guard, BASE, FIRST)) == 9
    assert not played.asked and len(played.passages) == 8
    await positions(guard, BASE, FIRST)
    assert [model for model, _ in played.passages[8:]] == ["first"] * 4, "the default's are known"


@pytest.mark.parametrize("error", [NoLogprobs("it does not"), ServiceError("it went away")])
async def test_scoring_that_fails_gives_way_to_asking(play: Play, error: Exception) -> None:
    played, guard = play("first")
    played.fails = error
    assert len(await positions(guard, BASE, FIRST)) == 9
    assert [model for model, _ in played.asked].count("first") == 9
    assert len(played.passages) == 4, "each passage is tried once"


async def test_a_deadline_leaves_no_service_behind_and_what_was_found_counts(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    played, guard = play("first")

    async def slow(client: str, model: str, prompt: Sequence[int], target: int) -> dict[int, float]:
        await asyncio.sleep(0 if len(played.asked) < 4 else 60)
        return await played.top(client, model, prompt, target)

    monkeypatch.setattr(probe, "top", slow)
    found, _ = await guard._positions(BASE, FIRST, time.monotonic() + 1)
    assert 0 < len(found) < 9 and played.there == 0

"""A conversation, then another model, then the conversation again: what `--keep-state` saves, and what it costs.

A case of `load.py`. Model A answers a conversation of about 1,500 tokens; B, a fake model, is asked and takes its
place; once A's process is gone, A is loaded again and the conversation goes on. `back` counts from asking for the load
to the first token. `away` counts from asking for B until A's process is gone, saving included. With and without
`keep_state` take turns; every conversation is a new one. Ratios are paired by round, intervals bootstrapped.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rig import BenchmarkFailed, Foundry, Line, call
from wire import Answer, Message, Target, ask

from localfoundry.bench import stats
from localfoundry.bench.prompts import prompt

TURNS = 6
GONE_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.005
_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Switch:
    """One A, B, A. `cold_s`: the first time to a first token with all of the conversation to read, A being loaded."""

    number: int
    kept: bool
    prompt_tokens: int
    cold_s: float
    away_s: float
    load_s: float
    back_s: float


def conversation(nonce: str, number: int, kept: bool, words: int) -> list[Message]:
    """Turns of user and assistant with `words` words in sum; the last is the user's."""
    roles = ["user", "assistant"] * (TURNS // 2) + ["user"]
    each = words // len(roles)
    return [
        {"role": role, "content": prompt(nonce, 42, number * len(roles) + place, twin=int(kept), words=each)}
        for place, role in enumerate(roles)
    ]


@dataclass(frozen=True)
class Run:
    """What every switch shares."""

    url: str
    model: str
    other: str
    words: int
    nonce: str

    async def switch(self, number: int, *, kept: bool) -> Switch:
        said = conversation(self.nonce, number, kept, self.words)
        pid, _ = await self._load(kept)
        first = await self._ask(said)
        left = time.perf_counter()
        await asyncio.to_thread(call, f"{self.url}/foundry/load", {"model": self.other})
        await self._gone(pid)
        away = time.perf_counter() - left
        said += [{"role": "assistant", "content": "I see."}, {"role": "user", "content": "Please go on."}]
        began = time.perf_counter()
        _, load_s = await self._load(kept)
        loaded = time.perf_counter() - began
        again = await self._ask(said)
        return Switch(number, kept, again.prompt_tokens, first.ttft_s, away, load_s, loaded + again.ttft_s)

    async def _ask(self, said: list[Message]) -> Answer:
        return await ask(Target.of(self.url), self.model, said, _ANSWER_TOKENS)

    async def _load(self, kept: bool) -> tuple[int, float]:
        """Process id of A's new worker, and how long its load took."""
        body = {"model": self.model, "keep_state": kept}
        report: dict[str, Any] = await asyncio.to_thread(call, f"{self.url}/foundry/load", body)
        if report["already_loaded"]:
            raise BenchmarkFailed(f"{self.model} was still loaded, with the options of before")
        return report["pid"], report["load_s"]

    async def _gone(self, pid: int) -> None:
        deadline = time.perf_counter() + GONE_WITHIN_S
        while psutil.pid_exists(pid):
            if time.perf_counter() > deadline:
                raise BenchmarkFailed(f"the worker of {self.model} is still there after {GONE_WITHIN_S:.0f} s")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def rounds(self, count: int) -> list[Switch]:
        done = []
        for number in range(count + 1):
            for kept in (False, True) if number % 2 else (True, False):
                one = await self.switch(number, kept=kept)
                if number:  # the first of each is warm-up
                    done.append(one)
                await asyncio.to_thread(call, f"{self.url}/foundry/unload", {"model": self.model})
        return done


def measure(under_test: Foundry, model: str, count: int, words: int) -> tuple[list[Line], dict[str, object]]:
    other = under_test.fake("other-model")
    with under_test.service({"FOUNDRY_RETAIN_MODELS": "false", "FOUNDRY_KEEP_STATE": "false"}) as url:
        switches = asyncio.run(Run(url, model, other, words, secrets.token_hex(8)).rounds(count))
    return lines(switches), {"switches": [asdict(switch) for switch in switches]}


def lines(switches: list[Switch]) -> list[Line]:
    kept, lost = ([s for s in switches if s.kept is kept] for kept in (True, False))
    back = stats.paired_ratio([s.back_s for s in kept], [s.back_s for s in lost])
    away = stats.paired_ratio([s.away_s for s in kept], [s.away_s for s in lost])
    return [
        Line("tokens of the conversation", "", [s.prompt_tokens for s in switches]),
        Line("its first token, model loaded", "s", [s.cold_s for s in switches]),
        Line("back to it, first token", "s", [s.back_s for s in lost]),
        Line("back to it, first token, --keep-state", "s", [s.back_s for s in kept]),
        Line("of that, load", "s", [s.load_s for s in lost]),
        Line("of that, load, --keep-state", "s", [s.load_s for s in kept]),
        Line("back, --keep-state / without", "x", (), back.value, back.interval),
        Line("away from it", "s", [s.away_s for s in lost]),
        Line("away from it, --keep-state", "s", [s.away_s for s in kept]),
        Line("away, --keep-state / without", "x", (), away.value, away.interval),
    ]

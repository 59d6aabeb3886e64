"""Four long answers at the same time against one, through the service, on the real model.

A case of `load.py`, after one that was published of Foundry Local (issue 637: four requests at once took longer there
than one after the other). `streams` distinct prompts of about 90 tokens, `tokens` tokens each with `ignore_eos`; one
and four take turns at going first. The ratio is wall time for four / wall time for one, paired by round, after wall
times are divided by the tokens of an answer; 4 would mean one after the other. Intervals are bootstrapped.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from dataclasses import asdict, dataclass

from rig import Foundry, Line, call
from wire import Answer, Target, ask

from localfoundry.bench import stats
from localfoundry.bench.prompts import prompt

STREAMS = 4
RATIO_GOAL = 2.0


@dataclass(frozen=True)
class Round:
    """`answers` asked for at the same moment."""

    number: int
    wall_s: float
    answers: list[Answer]

    @property
    def tokens_each(self) -> float:
        return statistics.fmean(answer.tokens for answer in self.answers)

    @property
    def throughput_tps(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.wall_s


async def rounds(url: str, model: str, count: int, tokens: int, words: int) -> tuple[list[Round], list[Round]]:
    """Rounds of one and of all streams. The first prompt is the same text in both but for its nonce."""
    target, nonce = Target.of(url), secrets.token_hex(8)

    async def at_once(number: int, streams: int) -> Round:
        texts = [prompt(nonce, 42, number * STREAMS + n, twin=streams, words=words) for n in range(streams)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(target, model, text, tokens) for text in texts))
        return Round(number, time.perf_counter() - began, answers)

    done: dict[int, list[Round]] = {1: [], STREAMS: []}
    for number in range(count + 1):
        for streams in (1, STREAMS) if number % 2 else (STREAMS, 1):
            one = await at_once(number, streams)
            if number:  # the first is warm-up
                done[streams].append(one)
    return done[1], done[STREAMS]


def measure(
    under_test: Foundry, model: str, count: int, tokens: int, words: int
) -> tuple[list[Line], dict[str, object]]:
    with under_test.service() as url:
        call(f"{url}/foundry/load", {"model": model})
        one, four = asyncio.run(rounds(url, model, count, tokens, words))
    raw: dict[str, object] = {"one": [asdict(r) for r in one], "four": [asdict(r) for r in four]}
    return lines(one, four), raw


def lines(one: list[Round], four: list[Round]) -> list[Line]:
    ratio = stats.paired_ratio([r.wall_s / r.tokens_each for r in four], [r.wall_s / r.tokens_each for r in one])
    answers = [answer for r in (*one, *four) for answer in r.answers]
    return [
        Line("tokens of a prompt", "", [answer.prompt_tokens for answer in answers]),
        Line("tokens of an answer", "", [answer.tokens for answer in answers]),
        Line("one long answer", "s", [r.wall_s for r in one]),
        Line(f"{STREAMS} long answers at once", "s", [r.wall_s for r in four]),
        Line("one, throughput", "tok/s", [r.throughput_tps for r in one]),
        Line(f"{STREAMS} at once, throughput", "tok/s", [r.throughput_tps for r in four]),
        Line(f"wall time, {STREAMS} at once / one", "x", (), ratio.value, ratio.interval, RATIO_GOAL),
    ]

"""What the service costs: throughput and TTFT through it, against its worker spoken to directly, on the real model.

    python benchmarks/proxy.py [--repetitions 7] [--streams 1 8 32] [--home DIR] [--json FILE]

Both sides get the same light client, the same texts and the same worker; only the nonce that leads a prompt differs,
so that neither is answered from the other's cache. A repetition is a pair of blocks, direct and service, whose order
alternates. Throughput: all output tokens of a block / its wall time, compared as a paired ratio. TTFT: compared as the
difference of the requests in the same place of their blocks. Intervals are bootstrapped. The model answers as many
requests at once as there are streams (`parallelRequests`), so that none of them waits for a place on either side.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from dataclasses import asdict, dataclass

from rig import BenchmarkFailed, Line, call, foundry, parser, publish
from wire import Answer, Target, ask

from localfoundry.bench import stats
from localfoundry.bench.prompts import prompt

STREAMS = (1, 8, 32)
_FULL = 8  # streams that send `per_stream` requests each in a block; more send fewer
THROUGHPUT_LOSS_GOAL = 3.0  # percent
TTFT_GOAL_MS = 2.0


@dataclass(frozen=True)
class Block:
    """`streams` clients, each asking one request after the other; `answers` in the order of client and request."""

    streams: int
    side: str
    repetition: int
    wall_s: float
    answers: list[Answer]

    @property
    def throughput_tps(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.wall_s


@dataclass(frozen=True)
class Load:
    """What each block sends."""

    model: str
    nonce: str
    words: int
    max_tokens: int
    per_stream: int
    streams: tuple[int, ...]

    async def run(self, target: Target, side: str, streams: int, repetition: int) -> Block:
        each = max(1, min(self.per_stream, self.per_stream * _FULL // streams))
        block = repetition * len(self.streams) + self.streams.index(streams)

        async def client(number: int) -> list[Answer]:
            answers = []
            for index in range(each):
                place = block * 1000 + number * each + index
                text = prompt(self.nonce, 42, place, twin=int(side == "service"), words=self.words)
                answers.append(await ask(target, self.model, text, self.max_tokens))
            return answers

        began = time.perf_counter()
        per_client = await asyncio.gather(*(client(number) for number in range(streams)))
        wall = time.perf_counter() - began
        return Block(streams, side, repetition, wall, [answer for answers in per_client for answer in answers])


def worker_of(url: str) -> Target:
    """The socket of the one worker that runs. Raises BenchmarkFailed where there is not exactly one."""
    running = call(f"{url}/foundry/ps")
    if not isinstance(running, list) or len(running) != 1 or not running[0].get("socket"):
        raise BenchmarkFailed(f"expected one worker with a socket, found {running}")
    return Target.of(str(running[0]["socket"]))


async def measure(load: Load, url: str, repetitions: int) -> list[Block]:
    targets = {"direct": worker_of(url), "service": Target.of(url)}
    blocks = []
    for repetition in range(repetitions + 1):
        order = ("direct", "service") if repetition % 2 else ("service", "direct")
        for streams in load.streams:
            for side in order:
                block = await load.run(targets[side], side, streams, repetition)
                if repetition:  # the first of each is warm-up
                    blocks.append(block)
    return blocks


def lines(blocks: list[Block], at_once: tuple[int, ...]) -> list[Line]:
    found = []
    for streams in at_once:
        direct, service = (
            [block for block in blocks if (block.streams, block.side) == (streams, side)]
            for side in ("direct", "service")
        )
        at = f"{streams} stream{'s' if streams > 1 else ''}"
        for side, those in (("direct", direct), ("service", service)):
            found.append(Line(f"throughput, {side}, {at}", "tok/s", [block.throughput_tps for block in those]))
            ttfts = [statistics.median(answer.ttft_s for answer in block.answers) * 1000 for block in those]
            found.append(Line(f"TTFT, {side}, {at}", "ms", ttfts))
        found += [_loss(direct, service, at), _delay(direct, service, at)]
    return found


def _loss(direct: list[Block], service: list[Block], at: str) -> Line:
    ratio = stats.paired_ratio([b.throughput_tps for b in service], [b.throughput_tps for b in direct])
    interval = None
    if ratio.interval is not None:
        interval = stats.Interval(100 * (1 - ratio.interval.high), 100 * (1 - ratio.interval.low), "bootstrap")
    return Line(f"throughput lost, {at}", "%", (), 100 * (1 - ratio.value), interval, THROUGHPUT_LOSS_GOAL)


def _delay(direct: list[Block], service: list[Block], at: str) -> Line:
    pairs = [pair for d, s in zip(direct, service, strict=True) for pair in zip(d.answers, s.answers, strict=True)]
    extra = [1000 * (through.ttft_s - straight.ttft_s) for straight, through in pairs]
    interval = stats.bootstrap_median(extra)
    return Line(f"TTFT added, {at}", "ms", extra, statistics.median(extra), interval, TTFT_GOAL_MS)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repetitions", type=int, default=7)
    options.add_argument("--per-stream", type=int, default=3, help="requests of each client in a block")
    options.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="clients at the same time, in turn")
    options.add_argument("--words", type=int, default=60)
    options.add_argument("--tokens", type=int, default=64)
    chosen = options.parse_args()
    at_once = tuple(chosen.streams)
    parallel = max(_FULL, *at_once)
    load = Load(chosen.model, secrets.token_hex(8), chosen.words, chosen.tokens, chosen.per_stream, at_once)
    with foundry(chosen) as under_test, under_test.service({"FOUNDRY_PARALLEL": str(parallel)}) as url:
        call(f"{url}/foundry/load", {"model": chosen.model})
        blocks = asyncio.run(measure(load, url, chosen.repetitions))
    counts = {answer.tokens for block in blocks for answer in block.answers}
    if counts != {chosen.tokens}:
        print(f"note: answers had {min(counts)} to {max(counts)} tokens, not all {chosen.tokens}")
    settings = asdict(load) | {"parallel": parallel, "repetitions": chosen.repetitions}
    publish(lines(blocks, at_once), settings, [asdict(block) for block in blocks], chosen.json)


if __name__ == "__main__":
    main()

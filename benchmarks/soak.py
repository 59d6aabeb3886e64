"""Many models, many clients, for a long time: is an answer ever lost, and does the service hold more and more?

    python benchmarks/soak.py [--minutes 30] [--home DIR] [--json FILE]
    python benchmarks/soak.py --requests 20000 --cycles 200

The first form mixes everything that clients do (`mix.py`) on the real model and three fake ones, while models are
loaded, switched and unloaded, and workers killed and stopped (`disturb.py`). The second sends so many short requests
to a fake model while another one is loaded and unloaded so many times.

An answer is lost when none came, or a wrong one, where no fault of ours can have hit it; the exit status is then 1. A
request whose worker was ended by us may end with `worker_crashed`, and is counted apart. Memory and descriptors are
compared at rest, no client and no worker there: after the first tenth, and at the end. The slope of the memory is that
of the samples in between.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from disturb import HANG_TIMEOUT_S, Disturber
from mix import MIXED, SHORT, Kind, Mix, Refused, Wrong
from rig import BenchmarkFailed, Foundry, Line, call, foundry, parser, publish
from watch import Sample, Watch, slope_per_hour
from wire import Target

from localfoundry.bench import stats

WARM_UP = 0.1
ANSWER_WITHIN_S = 180.0
REST_WITHIN_S = 60.0
GROWTH_GOAL = 5.0  # percent
MOST_LOST = 1000  # a service that is broken is not asked for hours
PROVOKED = "worker_crashed"

Work = Callable[[], Awaitable[None]]


@dataclass
class Tally:
    """What became of every request. `waits_s`: from asking to the whole answer, by kind and outcome."""

    waits_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    lost: list[dict[str, Any]] = field(default_factory=list)

    def note(self, kind: str, outcome: str, wait_s: float) -> None:
        self.waits_s.setdefault((kind, outcome), []).append(wait_s)

    def number(self, outcome: str | None = None) -> int:
        return sum(len(waits) for (_, was), waits in self.waits_s.items() if outcome in (None, was))

    def text(self) -> str:
        rows = [
            f"{kind:<22} {outcome:<16} {len(waits):>8}   longest {max(waits):8.2f} s"
            for (kind, outcome), waits in sorted(self.waits_s.items())
        ]
        return "\n".join([*rows, *(f"LOST at {one['at_s']:.1f} s: {one['kind']}: {one['why']}" for one in self.lost)])


@dataclass
class Soak:
    """One service and everyone around it."""

    mix: Mix
    disturber: Disturber
    watch: Watch
    clients: int
    kinds: tuple[Kind, ...]
    tally: Tally = field(default_factory=Tally)

    async def one(self, kind: str, model: str, work: Work) -> None:
        """A request, and what became of it."""
        began = time.perf_counter()
        outcome, why = "ok", ""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await work()
        except Refused as refused:
            hit = refused.code == PROVOKED and self.disturber.provoked(model, began)
            outcome, why = (PROVOKED, "") if hit else ("lost", str(refused))
        except TimeoutError:
            outcome, why = "lost", f"no answer in {ANSWER_WITHIN_S:.0f} s"
        except (Wrong, BenchmarkFailed, OSError, LookupError, TypeError, ValueError) as exc:
            outcome, why = "lost", f"{type(exc).__name__}: {exc}"
        now = time.perf_counter()
        self.tally.note(kind, outcome, now - began)
        if outcome == "lost":
            self.tally.lost.append({"at_s": now - self.watch.began, "kind": kind, "model": model, "why": why})

    async def client(self, more: Callable[[], bool]) -> None:
        models = {"fake": self.mix.fakes, "slow": (self.mix.slow,), "real": (self.mix.real or "",)}
        weights = [kind.weight for kind in self.kinds]
        while more():
            (kind,) = self.mix.draw.choices(self.kinds, weights)
            model = self.mix.draw.choice(models[kind.of])
            await self.one(kind.name, model, partial(kind.run, self.mix, model))

    async def operator(self, more: Callable[[], bool]) -> None:
        """Loads, switches and unloads, with a pause in which models are of use."""
        while more():
            model = self.mix.draw.choice(self.disturber.models)
            await self.one("load, switch, unload", model, partial(self.disturber.step, model))
            await asyncio.sleep(self.mix.draw.uniform(0, 4))

    async def saboteur(self, more: Callable[[], bool], every_s: float) -> None:
        """A worker killed every so often; the second one is stopped instead, and so hangs."""
        due, ended = time.perf_counter() + every_s, 0
        while more():
            await asyncio.sleep(0.1)
            if time.perf_counter() >= due:
                ended += 1
                await self.one("worker ended", "", self.disturber.stop if ended == 2 else self.disturber.kill)
                due += every_s

    async def cycles(self, model: str, count: int) -> None:
        for _ in range(count):
            await self.one("load", model, partial(self.disturber.load, model, retain=True))
            await self.one("unload", model, partial(self.disturber.unload, model))

    async def for_seconds(self, seconds: float, fault_every_s: float) -> None:
        until = time.perf_counter() + seconds

        def more() -> bool:
            return time.perf_counter() < until and len(self.tally.lost) < MOST_LOST

        clients = (self.client(more) for _ in range(self.clients))
        await asyncio.gather(self.operator(more), self.saboteur(more, fault_every_s), *clients)

    async def for_requests(self, requests: int, cycled: str, cycles: int) -> None:
        left = iter(range(requests))

        def more() -> bool:
            return next(left, None) is not None and len(self.tally.lost) < MOST_LOST

        await asyncio.gather(self.cycles(cycled, cycles), *(self.client(more) for _ in range(self.clients)))

    async def rest(self) -> Sample:
        """What is held when no client and no worker is there."""
        await self.one("comes to rest", "", self._quiet)
        return self.watch.look()

    async def _quiet(self) -> None:
        """Raises BenchmarkFailed where requests or workers stay behind."""
        deadline = time.perf_counter() + REST_WITHIN_S
        while running := [m["id"] for m in await self.disturber.loaded() if m["requests_running"]]:
            _in_time(deadline, f"no client is there, and requests run on {running}")
            await asyncio.sleep(0.1)
        for model in self.disturber.models:
            await self.disturber.unload(model)
        while workers := self.watch.workers():
            _in_time(deadline, f"all models are unloaded, and there are workers: {workers}")
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # connections that were closed a moment ago


def _in_time(deadline: float, otherwise: str) -> None:
    if time.perf_counter() > deadline:
        raise BenchmarkFailed(otherwise)


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """`work` for as long as the block lasts; what it raises is raised at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True)
class Found:
    """At rest after the warm-up, and at the end; the samples between."""

    first: Sample
    last: Sample
    between: list[Sample]


async def endure(soak: Soak, chosen: argparse.Namespace, cycled: str) -> Found:
    await soak.mix.probe()

    async def part(share: float) -> None:
        if chosen.requests:
            await soak.for_requests(round(chosen.requests * share), cycled, round(chosen.cycles * share))
        else:
            await soak.for_seconds(60 * chosen.minutes * share, chosen.fault_every)

    async with background(soak.watch.run()):
        await part(WARM_UP)
        first = await soak.rest()
        warm = len(soak.watch.samples)
        await part(1 - WARM_UP)
        between = soak.watch.samples[warm:]
        last = await soak.rest()
    return Found(first, last, between)


def lines(soak: Soak, found: Found) -> list[Line]:
    first, last, tally = found.first, found.last, soak.tally
    growth = 100 * (last.rss_bytes / first.rss_bytes - 1)

    def counted(name: str, unit: str, value: float, goal: float | None = None) -> Line:
        return Line(name, unit, (), value, goal=goal, counted=True)

    result = [
        counted("requests", "", tally.number()),
        counted("lost", "", len(tally.lost), 0),
        counted("ended by a worker that we ended", "", tally.number(PROVOKED)),
        counted("workers ended by us", "", len(soak.disturber.faults)),
        counted("resident memory at rest, after warm-up", "MB", first.rss_bytes / 1e6),
        counted("resident memory at rest, at the end", "MB", last.rss_bytes / 1e6),
        counted("growth of resident memory", "%", growth, GROWTH_GOAL),
        counted("descriptors at rest, after warm-up", "", first.descriptors),
        counted("descriptors, more at the end", "", last.descriptors - first.descriptors, 0),
        counted("threads, more at the end", "", last.threads - first.threads),
        counted("files beside models and logs, more at the end", "", last.files - first.files, 0),
        counted("logs at the end", "MB", last.log_bytes / 1e6),
        counted("longest wait for a whole answer", "s", max(max(waits) for waits in tally.waits_s.values())),
    ]
    slope = slope_per_hour(found.between)
    if slope is not None:
        interval = stats.Interval(slope[1].low / 1e6, slope[1].high / 1e6, "t")
        result.append(Line("slope of resident memory under load", "MB/h", (), slope[0] / 1e6, interval))
    return result


def prepared(under_test: Foundry, url: str, chosen: argparse.Namespace) -> tuple[Soak, str]:
    """The models, and everyone who is going to use them; and the model that only `--cycles` loads."""
    fakes = tuple(under_test.fake(f"clock-{rate}", **_switches(rate)) for rate in (2000, 300))
    slow = under_test.fake("slow", **_switches(25) | {"answer": "slow"})
    real = None if chosen.requests else str(call(f"{url}/foundry/load", {"model": chosen.model})["alias"])
    cycled = under_test.fake("cycled")
    models = (*fakes, cycled) if chosen.requests else (*fakes, slow, str(real))
    mix = Mix(Target.of(url), random.Random(chosen.seed), fakes[:1] if chosen.requests else fakes, slow, real)
    pid = int(under_test.status()["pid"])
    watch = Watch(pid, under_test.home, chosen.sample_every)
    kinds = SHORT if chosen.requests else MIXED
    return Soak(mix, Disturber(mix, pid, models), watch, chosen.clients, kinds), cycled


def _switches(rate: int) -> dict[str, object]:
    return {"tokens_per_second": rate, "answer": f"clock-{rate}", "echo": True}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=30.0, help="of the mixed load")
    options.add_argument("--requests", type=int, default=0, help="so many short ones instead, on the fake engine")
    options.add_argument("--cycles", type=int, default=0, help="loads and unloads beside --requests")
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--fault-every", type=float, default=180.0, metavar="SECONDS", help="end a worker so often")
    options.add_argument("--sample-every", type=float, default=10.0, metavar="SECONDS")
    options.add_argument("--seed", type=int, default=42)
    chosen = options.parse_args()
    settings = {"FOUNDRY_HANG_TIMEOUT": str(HANG_TIMEOUT_S), "FOUNDRY_RETAIN_MODELS": "true"}
    with foundry(chosen) as under_test, under_test.service(settings) as url:
        soak, cycled = prepared(under_test, url, chosen)
        try:
            found = asyncio.run(endure(soak, chosen, cycled))
        finally:
            print(soak.tally.text(), end="\n\n")
    said = {name: value for name, value in vars(chosen).items() if name not in ("home", "foundry", "json")}
    raw = {
        "at_rest": [asdict(found.first), asdict(found.last)],
        "samples": [asdict(sample) for sample in soak.watch.samples],
        "waits": [
            {"kind": kind, "outcome": outcome, "waits_s": [round(wait, 4) for wait in waits]}
            for (kind, outcome), waits in sorted(soak.tally.waits_s.items())
        ],
        "faults": soak.disturber.report(soak.watch.began),
        "lost": soak.tally.lost,
    }
    publish(lines(soak, found), said | settings, raw, chosen.json)
    sys.exit(1 if soak.tally.lost else 0)


if __name__ == "__main__":
    main()

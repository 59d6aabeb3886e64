"""How many tokens a second the service hands on, over 50 streams of the fake engine, and what of a core that takes.

A case of `load.py`. The fake engine's clock asks for a rate, in sum over all streams; `followed` is the time that its
tokens take by that clock / the wall time, 1 where everything keeps up. The rate is raised until the service does not.
Each rate is also measured with the worker spoken to directly, in turn: where that does not follow either, the limit is
the rig's, and the ceiling found is a lower bound. CPU is user and system time of the service's process, all threads.

The service gets one core to itself; worker and client share another. Without `sched_setaffinity` or a second core
nothing is pinned, and the settings in the printout say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import psutil
from rig import BenchmarkFailed, Foundry, Line, call
from wire import Target, ask

RATES = (5_000, 10_000, 15_000, 20_000, 30_000)
GOAL_RATE = 5_000
KEEPS_UP = 0.97
FALLS_BEHIND_GOAL = 3.0  # percent of the wall time, at GOAL_RATE
CORE_GOAL = 100.0  # percent of one core, at GOAL_RATE

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """All streams once at one rate, and what that took of the processors."""

    rate: int
    side: str
    repetition: int
    tokens: int
    asked_s: float
    wall_s: float
    service_cpu_s: float
    worker_cpu_s: float
    client_cpu_s: float

    @property
    def followed(self) -> float:
        return self.asked_s / self.wall_s

    @property
    def throughput_tps(self) -> float:
        return self.tokens / self.wall_s


@dataclass(frozen=True)
class Cores:
    """Which core is whose; None where nothing can be pinned."""

    service: int | None = None
    others: int | None = None

    @classmethod
    def found(cls) -> Cores:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return cls(allowed[0], allowed[1]) if len(allowed) > 1 else cls()


def pin(pid: int, core: int | None) -> None:
    """Keep every thread of a process on one core; threads and processes that it starts later inherit that."""
    if core is None:
        return
    for thread in psutil.Process(pid).threads():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, {core})


@dataclass(frozen=True)
class Run:
    """What every step shares."""

    url: str
    service_pid: int
    cores: Cores
    streams: int
    seconds: float
    repetitions: int

    async def rate(self, rate: int, model: str) -> list[Step]:
        """Both sides in alternating order, after a warm-up of each."""
        await asyncio.to_thread(call, f"{self.url}/foundry/load", {"model": model})
        (loaded,) = await asyncio.to_thread(call, f"{self.url}/foundry/ps")
        pin(loaded["pid"], self.cores.others)
        sides = {"direct": Target.of(loaded["socket"]), "service": Target.of(self.url)}
        steps = []
        for repetition in range(self.repetitions + 1):
            for side in sorted(sides, reverse=repetition % 2 == 0):
                step = await self._step(rate, model, side, sides[side], repetition, loaded["pid"])
                if repetition:
                    steps.append(step)
        return steps

    async def _step(self, rate: int, model: str, side: str, target: Target, repetition: int, worker: int) -> Step:
        each = max(2, round(rate / self.streams * self.seconds))
        before = _cpu_s(self.service_pid), _cpu_s(worker), time.process_time()
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(target, model, f"stream {n}", each) for n in range(self.streams)))
        wall = time.perf_counter() - began
        after = _cpu_s(self.service_pid), _cpu_s(worker), time.process_time()
        tokens = sum(answer.tokens for answer in answers)
        if tokens != each * self.streams:
            raise BenchmarkFailed(f"{tokens} tokens came, {each * self.streams} were asked for")
        service, of_worker, client = (b - a for a, b in zip(before, after, strict=True))
        return Step(rate, side, repetition, tokens, tokens / rate, wall, service, of_worker, client)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def measure(
    under_test: Foundry, rates: tuple[int, ...], streams: int, seconds: float, repetitions: int
) -> tuple[list[Line], dict[str, object]]:
    models = {rate: under_test.fake(f"clock-{rate}", tokens_per_second=rate / streams) for rate in rates}
    cores = Cores.found()
    before = os.sched_getaffinity(0) if cores.others is not None else None
    with under_test.service({"FOUNDRY_PARALLEL": str(streams)}) as url:
        pid = int(under_test.status()["pid"])
        pin(pid, cores.service)
        pin(os.getpid(), cores.others)
        steps: list[Step] = []
        try:
            for rate, model in models.items():
                steps += _run(Run(url, pid, cores, streams, seconds, repetitions).rate(rate, model))
                if rate >= GOAL_RATE and _median(steps, rate, "service", "followed") < KEEPS_UP:
                    break
        finally:
            if before is not None:
                os.sched_setaffinity(0, before)
    return lines(steps, streams), {"cores": asdict(cores), "steps": [asdict(step) for step in steps]}


def lines(steps: list[Step], streams: int) -> list[Line]:
    found = []
    for rate in sorted({step.rate for step in steps}):
        mine = [step for step in steps if (step.rate, step.side) == (rate, "service")]
        at = f"{rate} tok/s"
        goals = (FALLS_BEHIND_GOAL, CORE_GOAL) if rate == GOAL_RATE else (None, None)
        share = [100 * step.service_cpu_s / step.wall_s for step in mine]
        direct = [step.throughput_tps for step in steps if (step.rate, step.side) == (rate, "direct")]
        found += [
            Line(f"{at} over {streams}: through the service", "tok/s", [step.throughput_tps for step in mine]),
            Line(f"{at} over {streams}: worker directly", "tok/s", direct),
            Line(f"{at}: behind the clock", "%", [100 * (1 - step.followed) for step in mine], goal=goals[0]),
            Line(f"{at}: service's share of a core", "%", share, goal=goals[1]),
            Line(f"{at}: service's CPU per token", "us", [1e6 * s.service_cpu_s / s.tokens for s in mine]),
        ]
    return [*found, *_ceiling(steps)]


def _ceiling(steps: list[Step]) -> list[Line]:
    """The most that came through; and, predicted, what a whole core would hand on.

    The prediction takes the CPU per token of the highest rate that was kept up with: beyond it tokens come in bunches,
    which cost less each.
    """
    rates = sorted({step.rate for step in steps})
    best = max(rates, key=lambda rate: _median(steps, rate, "service", "throughput_tps"))
    steady = max((r for r in rates if _median(steps, r, "service", "followed") >= KEEPS_UP), default=best)
    those, of_steady = (
        [step for step in steps if (step.rate, step.side) == (rate, "service")] for rate in (best, steady)
    )
    share = statistics.median(step.service_cpu_s / step.wall_s for step in those)
    last_direct = _median(steps, rates[-1], "direct", "followed")
    if _median(steps, rates[-1], "service", "followed") >= KEEPS_UP:
        limit = "not reached"
    elif last_direct < KEEPS_UP and share < KEEPS_UP:
        limit = "the rig's, at least this"
    else:
        limit = "the service's"
    return [
        Line(f"ceiling ({limit})", "tok/s", [step.throughput_tps for step in those]),
        Line("ceiling of a whole core, predicted", "tok/s", [step.tokens / step.service_cpu_s for step in of_steady]),
    ]


def _median(steps: list[Step], rate: int, side: str, what: str) -> float:
    values: list[float] = [getattr(step, what) for step in steps if (step.rate, step.side) == (rate, side)]
    return statistics.median(values)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """In uvloop where there is one: the client shares a core with the worker and must cost little."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)

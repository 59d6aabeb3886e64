"""What does measuring cost? The bench's own client: processor time at 2,000 streamed tokens a second, and what it adds
to a first token.

48 streams at up to 50 tokens a second each, from a server in another process. CPU is this process's user and system
time over the wall time of the streams. What is added to a first token is TTFT as reported less TTFT as the server had
it, both on the system's one monotonic clock.
Goals: under half a core; under 1 ms added to TTFT at one stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from typing import Any

from token_clock import Clock, running

from localfoundry.bench import stats
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Plan
from localfoundry.bench.run import measure
from localfoundry.chat.target import Target

STREAMS = 48
CORE_GOAL, ADDED_GOAL_S = 0.5, 0.001
LOADED, ALONE = Clock(0.2, 0.02, 200), Clock(0.05, 0.005, 8)
CANDIDATE = Candidate("m", "m")


def run(plan: Plan, clock: Clock) -> tuple[Measurement, dict[str, list[float]], float, float]:
    """The measurement, the server's stamps, when this clock was 0, and processor seconds."""
    with running(clock) as server:
        began = time.perf_counter()
        used = time.process_time()

        async def work() -> Measurement:
            return await measure(Target(server.url), [CANDIDATE], plan=plan)

        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(work())
        used = time.process_time() - used
    return result, server.stamps, began, used


def added(result: Measurement, stamps: dict[str, list[float]]) -> list[float]:
    """Reported TTFT less the server's own, in seconds: both ways of the wire and all of the client."""
    plan = result.plan
    condition = plan.conditions()[0]
    found = []
    for sample in result.outcomes[0].good:
        body: Any = plan.question(CANDIDATE, condition, sample.round, sample.seq, 0).body
        received, first, *_ = stamps[body["messages"][0]["content"][:9]]
        assert sample.ttft_s is not None
        found.append(sample.ttft_s - (first - received))
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    loaded, loaded_stamps, _, used = run(Plan(concurrency=(STREAMS,), rounds=given.rounds), LOADED)
    good = loaded.outcomes[0].good
    tokens = sum(s.completion_tokens or 0 for s in good) + STREAMS * LOADED.tokens  # the warm-up took its time too
    alone, alone_stamps, _, _ = run(Plan(rounds=100), ALONE)
    late = added(alone, alone_stamps)
    interval = stats.bootstrap_median(late)
    assert interval is not None
    figures = {
        "tokens_per_s": tokens / loaded.wall_s,
        "cores": used / loaded.wall_s,
        "cpu_us_per_token": used / tokens * 1e6,
        "ttft_added_alone_ms": statistics.median(late) * 1000,
        "ttft_added_alone_interval_ms": [interval.low * 1000, interval.high * 1000],
        "ttft_added_loaded_ms": statistics.median(added(loaded, loaded_stamps)) * 1000,
        "cpus": os.cpu_count(),
    }
    if given.json:
        print(json.dumps(figures, indent=2))
        return 0
    for name, value in figures.items():
        print(f"{name}: {value if isinstance(value, list) else round(float(value or 0), 3)}")
    print(f"under {CORE_GOAL} cores: {'met' if figures['cores'] < CORE_GOAL else 'missed'}")  # type: ignore[operator]
    print(f"under {ADDED_GOAL_S * 1000:.0f} ms: {'met' if interval.high < ADDED_GOAL_S else 'missed or undecided'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

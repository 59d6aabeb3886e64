"""Is what `foundry bench` reports true? Against a server whose token clock is known, at one to 32 streams.

For each kind of answer and each concurrency: reported / set, for TTFT, ITL, throughput and goodput. Goal: within 2 %.
Goodput is bounded in the middle between answers that stall and those that do not, so its truth is 1 or 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import uvloop
from token_clock import Clock, running

from localfoundry.bench import figures
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Plan
from localfoundry.bench.run import measure
from localfoundry.bench.slo import Slo
from localfoundry.chat.target import Target

LEVELS = (1, 2, 4, 8, 16, 32)
GOAL = 0.02
CLOCKS = {
    "a token at a time": Clock(0.5, 0.04, 33),
    "four tokens in a chunk": Clock(0.5, 0.16, 36, per_chunk=4),
    "reasoning first": Clock(0.5, 0.04, 33, reasoning=16),
    "a stall of 1 s": Clock(0.5, 0.04, 33, stall_after=10, stall_s=1.0),
}


def report(clock: Clock, result: Measurement) -> list[dict[str, float | str]]:
    """Reported / set, a row for each concurrency."""
    rows: list[dict[str, float | str]] = []
    for cell in figures.cells(result.plan, result.outcomes):
        level = cell.condition.concurrency or 1
        known = figures.metrics(cell)
        throughput = figures.throughput(cell, result.plan)
        assert throughput is not None and not cell.failures, cell.error
        rows.append({
            "load": cell.condition.load,
            "ttft": known["ttft_s"].median / clock.ttft_s,
            "itl": known["itl_s"].median / (clock.span_s / (clock.tokens - 1)),
            "throughput": throughput.mean / (level * clock.tokens / clock.latency_s),
            "goodput": figures.goodput(cell, result.plan) or 0.0,
        })  # fmt: skip
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--only", choices=CLOCKS, action="append", help="This kind of answer; all unless given.")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    found = {}
    for name in given.only or CLOCKS:
        clock = CLOCKS[name]
        plan = Plan(concurrency=LEVELS, rounds=given.rounds, slo=Slo(latency_s=clock.latency_s * 1.1))
        with running(clock) as server:
            began = time.monotonic()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the command does
                result = runner.run(measure(Target(server.url), [Candidate("m", "m")], plan=plan))
        found[name] = report(clock, result)
        if not given.json:
            print(f"\n{name} ({time.monotonic() - began:.0f} s)")
            for row in found[name]:
                print("  ".join(f"{key} {v if isinstance(v, str) else round(v, 4)}" for key, v in row.items()))
    ratios = [value for rows in found.values() for row in rows for value in row.values() if not isinstance(value, str)]
    worst = max(abs(ratio - 1) for ratio in ratios)
    if given.json:
        print(json.dumps({"worst": worst, "rows": found}, indent=2))
    else:
        print(f"\nworst: {worst:.2%} off; goal {GOAL:.0%}: {'met' if worst <= GOAL else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

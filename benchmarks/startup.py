"""How long a person waits: commands, the service's start, the first token from cold; and the idle service's memory.

    python benchmarks/startup.py [--rounds 7] [--home DIR] [--json FILE]

Everything is measured once a round, in turn, so that a drifting machine hurts all alike. Commands are whole processes,
timed from outside. "Less the engine" is the time to the first token from a stopped service, without what the engine
itself reports for reading the model: what remains is ours, the prompt of a few words included.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import defaultdict

import psutil
from rig import BenchmarkFailed, Foundry, Line, call, foundry, parser, publish
from wire import Target, ask

from localfoundry.bench import stats

# Name, unit, goal; in the order they are printed.
_GOALS: tuple[tuple[str, str, float | None], ...] = (
    ("python -c pass", "s", None),
    ("foundry --version", "s", None),
    ("foundry model list", "s", None),
    ("foundry service status, stopped", "s", 0.3),
    ("foundry service status, running", "s", 0.3),
    ("foundry service start", "s", 1.0),
    ("service memory, no model", "MB", 90),
    ("cold first token", "s", None),
    ("engine's own load", "s", None),
    ("cold first token, less the engine", "s", 0.7),
)
_RATIOS = (("foundry --version", 4.0), ("foundry model list", 12.0))

Samples = dict[str, list[float]]


def commands(under_test: Foundry, samples: Samples) -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, stdin=subprocess.DEVNULL)
    samples["python -c pass"].append(time.perf_counter() - began)
    samples["foundry --version"].append(under_test.timed("--version"))
    samples["foundry model list"].append(under_test.timed("model", "list"))
    samples["foundry service status, stopped"].append(under_test.timed("service", "status", check=False))


def idle_service(under_test: Foundry, samples: Samples) -> None:
    """Start, ask for the status, read the memory after the service has answered its common requests, stop."""
    samples["foundry service start"].append(under_test.timed("service", "start"))
    samples["foundry service status, running"].append(under_test.timed("service", "status"))
    status = under_test.status()
    for path in ("/v1/models", "/foundry/list", "/openai/status"):
        call(str(status["webUrls"][0]).rstrip("/") + path)
    samples["service memory, no model"].append(_memory_mb(int(status["pid"])))
    under_test.stop()


def _memory_mb(pid: int) -> float:
    """Resident memory of the service and whatever it keeps beside itself, in units of 1,000,000 bytes."""
    service = psutil.Process(pid)
    return sum(process.memory_info().rss for process in [service, *service.children(recursive=True)]) / 1e6


async def first_token(url: str, model: str) -> float:
    """When the first token was there, on time.perf_counter."""
    began = time.perf_counter()
    answer = await ask(Target.of(url), model, "hi", 8)
    return began + answer.ttft_s


def cold(under_test: Foundry, model: str, samples: Samples) -> None:
    began = time.perf_counter()
    under_test.run("service", "start")
    url = under_test.url()
    report = call(f"{url}/foundry/load", {"model": model})
    total = asyncio.run(first_token(url, model)) - began
    under_test.stop()
    engine = report.get("engine_load_s") if isinstance(report, dict) else None
    if not isinstance(engine, int | float):
        raise BenchmarkFailed(f"the load report has no engine_load_s: {report}")
    samples["cold first token"].append(total)
    samples["engine's own load"].append(float(engine))
    samples["cold first token, less the engine"].append(total - engine)


def lines(samples: Samples) -> list[Line]:
    found = [Line(name, unit, samples[name], goal=goal) for name, unit, goal in _GOALS]
    bare = samples["python -c pass"]
    for name, goal in _RATIOS:
        ratio = stats.paired_ratio(samples[name], bare)
        found.append(Line(f"{name} / python -c pass", "x", (), ratio.value, ratio.interval, goal))
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    samples: Samples = defaultdict(list)
    with foundry(chosen) as under_test:
        commands(under_test, defaultdict(list))  # warm-up: byte code, disk cache
        for _ in range(chosen.rounds):
            commands(under_test, samples)
            idle_service(under_test, samples)
            cold(under_test, chosen.model, samples)
    publish(lines(samples), {"rounds": chosen.rounds, "model": chosen.model}, samples, chosen.json)


if __name__ == "__main__":
    main()

"""What other programs cost a model's speed, by how long a worker's threads spin while they wait for each other.

    python benchmarks/contention.py [--starter FILE] [--rounds 8] [--json FILE]

llama.cpp's threads meet after every step. Threads that spin there lose a whole slice of the scheduler to whoever else
wants the core; threads that sleep at once cost a wake-up each time. Workers of the same file are asked in turns, with
libgomp's own count of spins, with the one that our worker sets, and with none: on a quiet machine, and beside as many
programs that only compute as there are cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import fit_loads
import httpx2
from fit_loads import Options
from rig import Line, parser, publish

from localfoundry.bench.stats import paired_ratio

_SPINS = "while True: pass"
_KINDS = {"libgomp's 300,000": "300000", "ours": None, "none": "0"}
_PROMPT, _ANSWER = 128, 32  # tokens


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--starter", type=Path, required=True, help="a GGUF file")
    options.add_argument("--rounds", type=int, default=8)
    chosen = options.parse_args()
    samples: dict[str, list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        workers = {kind: stack.enter_context(_worker(chosen.starter, kind)) for kind in _KINDS}
        for others in (0, os.cpu_count() or 1):
            with _busy(others):
                for number in range(chosen.rounds + 1):
                    for kind, client in workers.items():
                        timings = _ask(client)
                        if number:
                            samples[f"decode, {others} others, {kind}"].append(timings["predicted_per_second"])
                            samples[f"prefill, {others} others, {kind}"].append(timings["prompt_per_second"])
    lines = [Line(name, "tok/s", values) for name, values in samples.items()]
    publish(lines, {"rounds": chosen.rounds}, samples, chosen.json)
    for name in samples:
        if name.endswith(", ours"):
            ratio = paired_ratio(samples[name], samples[name.replace("ours", "libgomp's 300,000")])
            print(f"{name} / libgomp's: {ratio.value:.2f} x, 95 % {ratio.interval}, {ratio.verdict}")


@contextlib.contextmanager
def _worker(model: Path, kind: str) -> Iterator[httpx2.Client]:
    """A worker started with this count in its environment."""
    spins = _KINDS[kind]
    environment = {"GOMP_SPINCOUNT": spins} if spins is not None else {}
    with contextlib.ExitStack() as stack:
        os.environ.update(environment)
        try:
            client, _ = stack.enter_context(fit_loads.running(model, Options(2048, 1)))
        finally:
            for name in environment:
                del os.environ[name]
        yield client


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", _SPINS]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def _ask(client: httpx2.Client) -> dict[str, float]:
    body = {
        "prompt": fit_loads.tokens(_PROMPT), "n_predict": _ANSWER, "cache_prompt": False, "ignore_eos": True
    }  # fmt: skip
    answer = client.post("/completion", content=json.dumps(body), headers={"Connection": "close"})
    answer.raise_for_status()
    timings: dict[str, float] = answer.json()["timings"]
    return timings


if __name__ == "__main__":
    main()

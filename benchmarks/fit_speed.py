"""Decode, prefill and load time of real and random models on a quiet machine, kept for the estimator's constants.

    python benchmarks/fit.py --speed types        a window of about five minutes, kept in tests/fit/speeds.json
    python benchmarks/fit.py --speed shapes       another one
    python benchmarks/fit.py --speed mixed        the likeliest to change, of both; `more` has the rest
    python benchmarks/fit.py --speed-constants    the rates in fit/speed.py, fitted to the kept ones

All models of a window are loaded at once and asked in turns, so that a drifting machine hurts all alike; the memory is
probed once in every turn. What is kept is the engine's own timing of every request but the first of each model, with
the share of the processor that other programs had meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fit_loads
import gguf
import httpx2
import msgspec
import psutil
import random_gguf
import requantized
from fit_loads import Options
from gguf import GGMLQuantizationType as Type

from localfoundry.fit import of_file
from localfoundry.hardware import bandwidth
from localfoundry.hardware.survey import Probe, survey

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "tests" / "fit" / "speeds.json"
WINDOW_S = 240.0  # nobody is asked later, so that others get their machine back
ANSWER = 16  # tokens
_SHORT, _LONG, _DEEP = 64, 512, 1536
DISTURBED = 0.05  # of the processor's time, by other programs
_TRIES = 2
_PATIENCE_S = 5.0
_PROBES = 2  # in a turn
_PAUSE_S = 0.2  # threads that wait for more work spin for a moment


@dataclass(frozen=True, slots=True)
class Case:
    """A file, the threads it is asked with, and the lengths of the prompts in tokens."""

    name: str
    kind: Type
    form: random_gguf.Shape | None
    lengths: tuple[int, ...] = (_SHORT, _LONG)
    threads: int = 0

    @property
    def file(self) -> str:
        return f"{self.name} {self.kind.name}"

    @property
    def options(self) -> Options:
        return Options(2048, 1, threads=self.threads)


def _starter(kind: Type, lengths: tuple[int, ...] = (_SHORT, _LONG), threads: int = 0) -> Case:
    return Case("SmolLM2-135M", kind, None, lengths, threads)


def _random(form: random_gguf.Shape, kind: Type, lengths: tuple[int, ...] = (_SHORT, _LONG), threads: int = 0) -> Case:
    return Case(form.name, kind, form, lengths, threads)


_SMALL_QWEN3 = random_gguf.QWEN3.shortened(10)
_ALL = (_SHORT, _LONG, _DEEP)
WINDOWS: dict[str, tuple[Case, ...]] = {
    "types": (
        _starter(Type.Q4_0, _ALL), _starter(Type.Q4_1), _starter(Type.Q5_0), _starter(Type.Q5_1),
        _starter(Type.Q8_0, _ALL), _starter(Type.F16),
        *(_random(_SMALL_QWEN3, kind) for kind in (Type.Q2_K, Type.Q3_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL)),
        _random(_SMALL_QWEN3, Type.Q4_K, _ALL),
    ),
    "shapes": (
        _starter(Type.Q4_1),
        _random(random_gguf.QWEN25, Type.Q8_0), _random(random_gguf.QWEN25, Type.Q4_0),
        _random(random_gguf.QWEN3, Type.Q4_K), _random(random_gguf.LLAMA32, Type.Q4_K),
        _random(random_gguf.LLAMA32.shortened(8), Type.Q6_K), _random(random_gguf.GEMMA3, Type.Q4_0),
        _random(random_gguf.SMALL_MIXTURE, Type.Q8_0), _random(random_gguf.HYBRID, Type.Q6_K),
        _random(random_gguf.SMALL_MIXTURE, Type.Q4_K), _random(random_gguf.PHI4.shortened(4), Type.Q4_0),
        _random(_SMALL_QWEN3, Type.Q4_K, threads=1), _starter(Type.Q8_0, threads=1),
    ),
    "mixed": (
        _starter(Type.Q8_0), _random(random_gguf.QWEN25, Type.Q8_0), _random(_SMALL_QWEN3, Type.Q6_K),
        _random(random_gguf.HYBRID, Type.Q6_K), _random(_SMALL_QWEN3, Type.Q4_K), _random(random_gguf.QWEN3, Type.Q4_K),
        _random(random_gguf.QWEN25, Type.Q4_0), _random(_SMALL_QWEN3, Type.Q5_K),
        _random(random_gguf.HYBRID, Type.Q5_K), _starter(Type.F16),
        _starter(Type.Q5_0), _starter(Type.Q5_1), _random(random_gguf.GEMMA3, Type.Q4_0),
        _random(_SMALL_QWEN3, Type.IQ4_NL), _random(random_gguf.SMALL_MIXTURE, Type.Q8_0),
        _random(random_gguf.SMALL_MIXTURE, Type.Q4_K), _starter(Type.Q8_0, threads=1),
        _random(_SMALL_QWEN3, Type.Q4_K, threads=1),
    ),
    "more": (
        _starter(Type.Q4_0, threads=1), _starter(Type.Q4_1), _random(_SMALL_QWEN3, Type.Q6_K, threads=1),
        _random(random_gguf.QWEN25, Type.Q8_0, threads=1), _random(random_gguf.QWEN25, Type.F16),
        _random(random_gguf.LLAMA32.shortened(8), Type.Q3_K), _random(random_gguf.LLAMA32.shortened(8), Type.Q5_K),
        _random(random_gguf.HYBRID, Type.Q5_K), _random(random_gguf.HYBRID, Type.Q2_K),
        _random(random_gguf.LATENT.shortened(4), Type.Q8_0), _random(random_gguf.QWEN25, Type.Q5_1),
    ),
}  # fmt: skip


@dataclass
class _Asked:
    """A loaded model with what was measured of it, by what was asked for: tokens a second, or seconds of a load."""

    case: Case
    client: httpx2.Client
    load_s: float
    measured: dict[str, list[list[float]]] = field(default_factory=dict)

    def ask(self, *, keep: bool) -> None:
        """Every length, or only the shortest and nothing kept; what was disturbed is asked again, a few times."""
        for length in self.case.lengths if keep else self.case.lengths[:1]:
            for _ in range(_TRIES if keep else 1):
                timings, share = self._timed(length)
                if keep:
                    for what, key in (("prefill", "prompt_per_second"), ("decode", "predicted_per_second")):
                        sample = [round(timings[key], 3), round(max(share, 0.0), 3)]
                        self.measured.setdefault(f"{what} {length}", []).append(sample)
                if share <= DISTURBED:
                    break

    def _timed(self, length: int) -> tuple[dict[str, float], float]:
        """The engine's timings of one request, and the share of the processor that others had."""
        body = {"prompt": fit_loads.tokens(length), "n_predict": ANSWER, "cache_prompt": False, "ignore_eos": True}
        before, began = _foreign_s(), time.perf_counter()
        answer = self.client.post("/completion", content=json.dumps(body), headers={"Connection": "close"})
        answer.raise_for_status()
        share = (_foreign_s() - before) / (time.perf_counter() - began) / (os.cpu_count() or 1)
        return answer.json()["timings"], share


def write_files(starter: Path, folder: Path, window: str) -> None:
    """The files of a window that are not in `folder` yet: work that is not to be done while it is quiet."""
    source, tokenizer = gguf.GGUFReader(starter), random_gguf.Tokenizer(starter)
    for case in WINDOWS[window]:
        path = folder / f"{case.file}.gguf"
        write: Callable[[Path], None] = partial(requantized.write, source, case.kind)
        if case.form is not None:
            write = partial(random_gguf.write, case.form, case.kind, tokenizer=tokenizer)
        if not path.exists():
            staged = path.with_suffix(".part")
            write(staged)
            staged.rename(path)


def measure(folder: Path, window: str, done: Callable[[dict[str, Any]], None]) -> None:
    """One window: loads, then turns over all models until the time is up; `done` gets all there is after each."""
    began, steal, started = time.perf_counter(), _steal_s(), round(time.time())
    probes: dict[int, list[float]] = {}
    with contextlib.ExitStack() as stack:
        asked = [_load(stack, folder, case) for case in WINDOWS[window]]
        for turn in itertools.count():
            _probe(probes, sorted({case.threads for case in WINDOWS[window]}))
            for one in asked:
                if time.perf_counter() - began < WINDOW_S:
                    _wait_for_calm()
                    one.ask(keep=turn > 0)
            elapsed_s = time.perf_counter() - began
            print(f"{elapsed_s:.0f} s: turn {turn}", flush=True)
            stolen = round((_steal_s() - steal) / elapsed_s, 4)
            done({"window": window, "began": started, "steal": stolen} | _so_far(asked, probes))
            if elapsed_s > WINDOW_S:
                break


def _wait_for_calm() -> None:
    """Until others leave the processor alone, and threads that wait for more work have stopped spinning."""
    deadline = time.perf_counter() + _PATIENCE_S
    time.sleep(_PAUSE_S)
    while time.perf_counter() < deadline:
        before, began = _foreign_s(), time.perf_counter()
        time.sleep(_PAUSE_S)
        if (_foreign_s() - before) / (time.perf_counter() - began) / (os.cpu_count() or 1) <= DISTURBED:
            return


def _so_far(asked: list[_Asked], probes: dict[int, list[float]]) -> dict[str, Any]:
    return {
        "probes": {str(threads): rates for threads, rates in probes.items()},
        "cases": [
            {"file": one.case.file, "threads": one.case.threads or os.cpu_count(), "load_s": one.load_s,
             "measured": one.measured}
            for one in asked
        ],
    }  # fmt: skip


def keep(folder: Path, window: dict[str, Any], machine: dict[str, str], path: Path = KEPT) -> None:
    """Beside the windows already kept; what there was of this one is replaced."""
    kept = json.loads(path.read_text()) if path.exists() else {"shapes": {}, "windows": []}
    cpu = survey(Path("/nonexistent"), Probe.NEVER).cpu
    kept["machine"] = machine | {"processor": cpu.model, "instructions": cpu.instructions}
    for case in WINDOWS[window["window"]]:
        shape = of_file(folder / f"{case.file}.gguf")
        assert shape is not None
        kept["shapes"][case.file] = msgspec.to_builtins(shape)
    kept["windows"] = [one for one in kept["windows"] if one["began"] != window["began"]] + [window]
    path.write_text(json.dumps(kept, indent=1) + "\n")


def _load(stack: contextlib.ExitStack, folder: Path, case: Case) -> _Asked:
    path = folder / f"{case.file}.gguf"
    client, load_s = stack.enter_context(fit_loads.running(path, case.options))
    return _Asked(case, client, round(load_s, 3))


def _probe(found: dict[int, list[float]], threads: list[int]) -> None:
    machine = survey(Path("/nonexistent"), Probe.NEVER)
    for count in threads:
        usable = count or machine.cpu.usable
        for _ in range(_PROBES):
            time.sleep(_PAUSE_S)
            measured, doubt = bandwidth.measure(msgspec.structs.replace(machine.cpu, usable=usable), machine.memory)
            if measured is not None and doubt is None:
                found.setdefault(usable or 0, []).append(round(measured.bytes_per_s))


def _foreign_s() -> float:
    """Seconds of processor time that programs other than this one and its children have had so far."""
    every = psutil.cpu_times()
    own = psutil.Process()
    mine = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return float(every.user + every.nice + every.system - sum(one.user + one.system for one in mine))


def _steal_s() -> float:
    """Seconds that other machines on the same host took of this one's processors, so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")

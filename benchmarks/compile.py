"""What `foundry model compile` adds to the ONNX builder: time and peak memory, in turns with the builder alone.

    export FOUNDRY_COMPILE_PYTHON=.venv-compile/bin/python
    .venv/bin/python benchmarks/compile.py HF_FOLDER [--rounds 3] [--json]

Four ways from the same folder to ONNX int4: the builder by itself (`python -m …builder`) with the options that this
product gives it, and with its own; the command without its trial (`--no-check`: hashing, checks, the builder, filing),
and the command as it is, whose trial computes what the source says and runs the result. Memory is the resident memory
of the whole tree of processes, looked at ten times a second, the same for all. Every round has a home of its own;
nothing is taken over. Minutes for 135 M parameters. `make test-compile` makes the Python with the compilers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from localfoundry.build.targets import parse

_LOOK_S = 0.1
_WAYS = ("builder alone", "builder, its defaults", "compile --no-check", "compile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    python = os.environ.get("FOUNDRY_COMPILE_PYTHON")
    if not python:
        raise SystemExit("FOUNDRY_COMPILE_PYTHON names the Python that has the compilers (make test-compile)")
    found: dict[str, list[tuple[float, int]]] = {way: [] for way in _WAYS}
    for number in range(given.rounds):
        for way in _WAYS[number % 4 :] + _WAYS[: number % 4]:
            with tempfile.TemporaryDirectory(prefix="compile-bench-") as place:
                found[way].append(_measured(_command(way, python, given.folder.absolute(), Path(place)), Path(place)))
                print(f"{way}: {found[way][-1][0]:.1f} s, {found[way][-1][1] / 1e6:.0f} MB", file=sys.stderr)
    _show(found, given.json)


def _command(way: str, python: str, folder: Path, place: Path) -> list[str]:
    if way.startswith("builder"):
        chosen = parse("onnx", None, None, "cpu").options if way == "builder alone" else {}
        options = [f"{key}={value}" for key, value in chosen.items()]
        words = ["--input", str(folder), "--output", str(place / "out"), "--cache_dir", str(place / "cache")]
        words += ["--precision", "int4", "--execution_provider", "cpu", "--extra_options", "hf_token=false", *options]
        return [python, "-m", "onnxruntime_genai.models.builder", *words]
    more = ["--no-check"] if way.endswith("--no-check") else ["--max-loss", "1000%"]
    return [str(Path(sys.executable).with_name("foundry")), "model", "compile", str(folder), *more]


def _measured(command: list[str], place: Path) -> tuple[float, int]:
    """Seconds, and the peak of the memory of the process and all below it."""
    environment = os.environ | {"FOUNDRY_HOME": str(place / "home"), "FOUNDRY_PORT": "0", "HF_HUB_OFFLINE": "1"}
    began, peak = time.perf_counter(), 0
    with (place / "log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=place)
        watched = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, _resident(watched))
            time.sleep(_LOOK_S)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{(place / 'log').read_text('utf-8', 'replace')[-2000:]}")
    return time.perf_counter() - began, peak


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.Error:
        pass
    return total


def _show(found: dict[str, list[tuple[float, int]]], as_json: bool) -> None:
    base_s, base_bytes = (statistics.median(values) for values in zip(*found["builder alone"], strict=True))
    rows = []
    for way, samples in found.items():
        seconds, peak = (statistics.median(values) for values in zip(*samples, strict=True))
        rows.append({"way": way, "seconds": seconds, "peakBytes": peak, "time": seconds / base_s,
                     "memory": peak / base_bytes, "samples": samples})  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print("| | s | peak memory | of the builder's time | of its memory |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['way']} | {row['seconds']:.1f} | {row['peakBytes'] / 1e6:.0f} MB | {row['time']:.2f} × "
              f"| {row['memory']:.2f} × |")  # fmt: skip


if __name__ == "__main__":
    main()

"""Runs as a team shares them, made from values: for tests of merging, checking and evidence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from localfoundry.results.distribution import distribution
from localfoundry.results.models_json import VERSION, Candidate, Document, SharedRun, Speed, Task, Vote, addressed

SHA = "ab" * 32
MACHINE: dict[str, Any] = {"cpu": "AMD EPYC", "threads": 2, "memory_bytes": 8 * 2**30, "system": "Linux"}


def local_id(number: int) -> str:
    return f"{number:026d}"


def around(middle: float, seed: int, n: int = 12, spread: float = 0.03) -> list[float]:
    draw = random.Random(seed)
    return [middle * (1 + draw.uniform(-spread, spread)) for _ in range(n)]


def run(number: int = 1, itl_s: Sequence[float] = (), by: str | None = "ann", **changes: Any) -> SharedRun:
    """A run of one file; `itl_s` are its raw values, `changes` replace fields before it is addressed."""
    speed = Speed("m", "chat", "en", "c=1", len(itl_s), itl_s=distribution(itl_s)) if itl_s else None
    fields: dict[str, Any] = {
        "run": local_id(number),
        "kind": "bench",
        "started_at": f"2026-10-0{number % 9 + 1}T10:00:00.000+00:00",
        "status": "finished",
        "machine": MACHINE,
        "protocol": {"rounds": 5},
        "versions": {"localfoundry": "0.1.0"},
        "candidates": (Candidate("m", "m", model_id="org/m:1", file_sha256=SHA, engine="llama.cpp"),),
        "speed": (speed,) if speed else (),
        "passed_on_by": (by,) if by else (),
    }
    return addressed(SharedRun(id="", **(fields | changes)))


def tasks(
    number: int, passed: Sequence[str], failed: Sequence[str], suite: str = "chat", content: str | None = None
) -> SharedRun:
    return run(number, kind="eval", tasks=(Task("m", suite, "en", tuple(passed), tuple(failed), content),))


def votes(number: int, count: int, choice: str = "m") -> SharedRun:
    given = tuple(Vote("ann", "clarity", "course", f"q{n}.en", "m", "n", "m", choice) for n in range(count))
    return run(number, kind="rating", votes=given, candidates=(Candidate("m", "m"), Candidate("n", "n")))


def document(*runs: SharedRun) -> Document:
    return Document(schema=VERSION, runs=tuple(sorted(runs, key=lambda one: one.id)))

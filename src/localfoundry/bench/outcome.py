"""What came of a measurement, as values that survive a file: raw samples, the plan that made them, and what failed."""

from __future__ import annotations

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.energy import UNAVAILABLE
from localfoundry.bench.plan import Plan
from localfoundry.bench.request import Sample


class Outcome(msgspec.Struct):
    """What came of one candidate. With `error` set it was given up, and `samples` holds what was measured before.

    `failed` is why single conditions were given up, by their key; `saturated` in which words a sweep ended, by the key
    of the first level that brought no more. `peak_bytes`: the worker's largest private memory seen between requests.
    `apart`: it was measured after the others and not in turns with them, for want of memory beside them.
    """

    candidate: Candidate
    load_s: float | None = None
    samples: list[Sample] = []
    error: str | None = None
    failed: dict[str, str] = {}
    saturated: dict[str, str] = {}
    peak_bytes: int | None = None
    memory: dict[str, int] = {}
    apart: bool = False

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.error is None]


class Measurement(msgspec.Struct):
    """All raw results with the plan that made them."""

    plan: Plan
    started_at: str
    outcomes: list[Outcome]
    wall_s: float = 0.0
    interrupted: bool = False
    energy: str = UNAVAILABLE
    idle_w: float = 0.0

"""How a bench tells where it is: one line that is written over and over on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.record import Recorder
from localfoundry.bench.request import Sample
from localfoundry.bench.run import Progress, Watch
from localfoundry.cli import output
from localfoundry.units import format_duration

_LINE_EVERY_S = 60.0


class Holder(Protocol):
    """Whoever knows the processes of local candidates."""

    def memory_bytes(self, candidate: Candidate) -> int | None: ...


class BenchWatch(Watch):
    """Tells a person, and hands each sample to the recorder."""

    def __init__(self, recorder: Recorder | None, loaded: Holder | None, rounds: int, *, quiet: bool) -> None:
        self._recorder = recorder
        self._loaded = loaded
        self._rounds = rounds
        self._live = output.shows_progress() and not quiet
        self._quiet = quiet
        self._told = time.monotonic()

    def sample(self, sample: Sample) -> None:
        if self._recorder is not None:
            self._recorder.sample(sample)

    def memory_bytes(self, candidate: Candidate) -> int | None:
        return self._loaded.memory_bytes(candidate) if self._loaded else None

    def progress(self, progress: Progress) -> None:
        if self._live:
            output.note(f"\r{self._line(progress)}\x1b[K", end="")
        elif not self._quiet and time.monotonic() - self._told > _LINE_EVERY_S:
            self._told = time.monotonic()
            output.note(self._line(progress))

    def clear(self) -> None:
        """Take the line away."""
        if self._live:
            output.note("\r\x1b[K", end="")

    def _line(self, at: Progress) -> str:
        what = "warm-up" if at.round == 0 else f"round {at.round} of {self._rounds}"
        left = "" if at.left_s is None else f", about {format_duration(at.left_s)} left"
        where = at.condition
        return f"{at.done}/{at.total}{left}  {at.label}: {where.scenario} {where.load}, {what}"

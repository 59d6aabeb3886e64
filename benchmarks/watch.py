"""What a service holds while it runs: memory, descriptors, threads, workers, files; and where its memory is heading."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rig import BenchmarkFailed

from localfoundry.bench import stats

_BLOCKS = 12  # samples that follow each other closely repeat each other: the slope is fitted to medians of blocks
_FEWEST_BLOCKS = 4
_SHORTEST_S = 300.0  # what an hour would be is not said from less


@dataclass(frozen=True)
class Sample:
    """One look. `descriptors` is 0 where the system does not say. Files: beside models and logs, sockets included."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int
    workers: int
    files: int
    log_bytes: int


@dataclass
class Watch:
    """Looks at the service of a home every `every_s` while `run` is a task."""

    pid: int
    home: Path
    every_s: float
    began: float = field(default_factory=time.perf_counter)
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._process = psutil.Process(self.pid)
        state = json.loads((self.home / "run" / "service.json").read_text(encoding="utf-8"))
        self._folders = [Path(state["socket_dir"]), *(self.home / name for name in ("run", "state", "models/tmp"))]

    def look(self) -> Sample:
        """Raises BenchmarkFailed where the service has ended."""
        try:
            with self._process.oneshot():
                return Sample(
                    at_s=time.perf_counter() - self.began,
                    rss_bytes=self._process.memory_info().rss,
                    descriptors=self._process.num_fds() if hasattr(self._process, "num_fds") else 0,
                    threads=self._process.num_threads(),
                    workers=len(self.workers()),
                    files=sum(len(names) for folder in self._folders for _, _, names in os.walk(folder)),
                    log_bytes=sum(_size(file) for file in (self.home / "logs").glob("*")),
                )
        except psutil.NoSuchProcess:
            raise BenchmarkFailed(f"the service, process {self.pid}, has ended by itself") from None

    def workers(self) -> list[int]:
        return [child.pid for child in self._process.children()]

    async def run(self) -> None:
        while True:
            self.samples.append(self.look())
            await asyncio.sleep(self.every_s)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # rotated away a moment ago
        return 0


def slope_per_hour(samples: Sequence[Sample]) -> tuple[float, stats.Interval] | None:
    """Resident memory's growth in bytes per hour by least squares, with its interval; None where that says nothing.

    Fitted to the medians of equal blocks of samples; half width t(n - 2) * s / sqrt(sum of (x - mean)^2), where s is
    the residual standard error over n - 2 degrees of freedom.
    """
    count = min(_BLOCKS, len(samples) // 2)
    if count < _FEWEST_BLOCKS or samples[-1].at_s - samples[0].at_s < _SHORTEST_S:
        return None
    edges = [len(samples) * n // count for n in range(count + 1)]
    blocks = [samples[low:high] for low, high in itertools.pairwise(edges)]
    hours = [statistics.median(s.at_s for s in block) / 3600 for block in blocks]
    sizes = [statistics.median(s.rss_bytes for s in block) for block in blocks]
    fit = statistics.linear_regression(hours, sizes)
    middle = statistics.fmean(hours)
    spread = sum((x - middle) ** 2 for x in hours)
    left = sum((y - fit.intercept - fit.slope * x) ** 2 for x, y in zip(hours, sizes, strict=True))
    half = stats.t_quantile_975(count - 2) * (left / (count - 2) / spread) ** 0.5
    return fit.slope, stats.Interval(fit.slope - half, fit.slope + half, "t")

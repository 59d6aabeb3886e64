"""Energy from the machine's own counters: RAPL of the processor (Linux), NVML of NVIDIA GPUs; `unavailable` elsewhere.

A counter covers the whole machine, so what the machine takes while idle is measured first and taken off. Trade-off:
what other programs do meanwhile is counted in, and RAPL covers the processor's packages without disks, fans and screen.
On most systems only root may read RAPL; the kernel closed it to others because it betrays secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
UNAVAILABLE = "unavailable"
IDLE_S = 2.0  # how long the idle machine's energy is measured


class Counter(Protocol):
    """Joules since some moment; only differences mean something."""

    name: str

    def joules(self) -> float: ...


class Rapl:
    """The packages of the processor. Raises OSError where one cannot be read."""

    name = "RAPL"

    def __init__(self, folder: Path = POWERCAP) -> None:
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _is_package(zone)]
        if not zones:
            raise FileNotFoundError(f"no package in {folder}")
        self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        self._last = [self._read(file) for file, _ in self._zones]
        self._sum_uj = 0

    def joules(self) -> float:
        """The counters are 32 bits wide on many processors and start over after minutes: read at least that often."""
        for place, (file, wraps_at) in enumerate(self._zones):
            value = self._read(file)
            self._sum_uj += (value - self._last[place]) % (wraps_at + 1)
            self._last[place] = value
        return self._sum_uj / 1e6

    @staticmethod
    def _read(file: Path) -> int:
        return int(file.read_text())


def _is_package(zone: Path) -> bool:
    # intel-rapl:0:0 and the like are parts of a package; psys holds all packages and would count them twice.
    with contextlib.suppress(OSError):
        return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
    return False


class Nvml:
    """All NVIDIA GPUs together. Raises OSError where there is none with a counter."""

    name = "NVML"

    def __init__(self, nvml: Any | None = None) -> None:
        """`nvml` stands in for the binding in tests."""
        self._nvml = nvml or importlib.import_module("pynvml")
        self._handles: list[Any] = []
        with self._translated():
            self._nvml.nvmlInit()
            count = int(self._nvml.nvmlDeviceGetCount())
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        if not self._handles:
            raise FileNotFoundError("no GPU")
        self.joules()

    def joules(self) -> float:
        with self._translated():
            return sum(float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(one)) for one in self._handles) / 1000

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as exc:
            raise OSError(str(exc)) from exc


class Meter:
    """The counters that can be read here, as one. `source` is `RAPL`, `RAPL + NVML`, … or the word `unavailable`."""

    def __init__(self, counters: list[Counter], now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now
        self._idle_w = 0.0

    @property
    def source(self) -> str:
        return " + ".join(counter.name for counter in self._counters) or UNAVAILABLE

    @property
    def idle_w(self) -> float:
        return self._idle_w

    def read(self) -> tuple[float, float] | None:
        """(time, joules) now; None where there is no counter, or it stopped answering."""
        if not self._counters:
            return None
        try:
            return self._now(), sum(counter.joules() for counter in self._counters)
        except (OSError, ValueError):
            self._counters = []
            return None

    async def learn_idle(self) -> None:
        """What the machine takes while nothing is asked of it, over `IDLE_S`; at once where there is no counter."""
        before = self.read()
        if before is not None:
            await asyncio.sleep(IDLE_S)
            self.note_idle(before, self.read())

    def note_idle(self, before: tuple[float, float] | None, after: tuple[float, float] | None) -> None:
        """The same, from two readings."""
        if before and after and after[0] > before[0]:
            self._idle_w = (after[1] - before[1]) / (after[0] - before[0])

    def spent(self, before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
        """Joules between two readings, less idle; at least 0, since idle varies as well."""
        if not before or not after:
            return None
        return max(after[1] - before[1] - self._idle_w * (after[0] - before[0]), 0.0)


def open_meter(now: Callable[[], float], folder: Path = POWERCAP) -> Meter:
    """Whatever can be read on this machine."""
    counters: list[Counter] = []
    with contextlib.suppress(OSError, ValueError):
        counters.append(Rapl(folder))
    if Path("/proc/driver/nvidia").exists():
        with contextlib.suppress(OSError, ImportError):
            counters.append(Nvml())
    return Meter(counters, now)

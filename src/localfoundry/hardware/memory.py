"""Main memory: what the machine has and what a container leaves of it."""

from __future__ import annotations

from localfoundry.hardware.cgroup import memory_limit
from localfoundry.hardware.machine import MemoryFacts
from localfoundry.hardware.readings import Readings, properties, whole


def read(readings: Readings) -> MemoryFacts:
    """Total and available; both of the container where its limit is lower than the machine's memory."""
    total, available = _machine(readings)
    limit = memory_limit(readings, total if total is not None else 2**50) if readings.system == "Linux" else None
    if limit is None:
        return MemoryFacts(total, available, total)
    left = limit.limit - limit.used if limit.used is not None else None
    both = [n for n in (left, available) if n is not None]
    return MemoryFacts(limit.limit, min(both) if left is not None else None, total, limit.limit)


def _machine(readings: Readings) -> tuple[int | None, int | None]:
    if readings.system != "Linux":
        return readings.memory() or (None, None)
    told = properties(readings.text("/proc/meminfo"), ":")
    total, available = (_kibibytes(told.get(key)) for key in ("MemTotal", "MemAvailable"))
    return total, min(available, total) if available is not None and total is not None else available


def _kibibytes(text: str | None) -> int | None:
    """`24684084 kB`, which the kernel writes for units of 1,024 bytes; a zero is no answer."""
    number, _, unit = (text or "").partition(" ")
    value = whole(number, most=2**40)
    return value * 1024 if value and unit.strip() == "kB" else None

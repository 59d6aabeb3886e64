"""What a container, or a slice of systemd, leaves of the machine: limits of control groups, both versions.

A process is bound by its own group and by each one above it. A container often sees its group as the root, while
/proc/self/cgroup still tells the path from outside; a path that is not there is therefore passed over.
"""

from __future__ import annotations

from typing import NamedTuple

from localfoundry.hardware.readings import Readings, whole

_ROOT = "/sys/fs/cgroup"
_DEEPEST = 32


class MemoryLimit(NamedTuple):
    """Bytes: the limit, and what is in use of it and not to be had back (cached files are); None: not told."""

    limit: int
    used: int | None


def memory_limit(readings: Readings, below: int) -> MemoryLimit | None:
    """The group that leaves the least, of those whose limit is lower than `below` bytes; None where there is none."""
    found = [_unified(readings, folder) for folder in _folders(readings, "")]
    found += [_first_version(readings, folder) for folder in _folders(readings, "memory")]
    limits = [told for told in found if told is not None and told.limit < below]
    return min(limits, key=lambda told: told.limit - (told.used or 0), default=None)


def processor_quota(readings: Readings) -> float | None:
    """How many processors' time the tightest group allows; None where none says."""
    quotas = []
    for folder in _folders(readings, ""):
        quota, _, period = (readings.text(f"{folder}/cpu.max") or "").partition(" ")
        quotas.append((whole(quota), whole(period)))
    for folder in _folders(readings, "cpu"):
        told = (readings.text(f"{folder}/cpu.cfs_quota_us"), readings.text(f"{folder}/cpu.cfs_period_us"))
        quotas.append((whole(told[0]), whole(told[1])))
    return min((quota / period for quota, period in quotas if quota and period), default=None)


def _folders(readings: Readings, controller: str) -> list[str]:
    """The group's folder and those above it; `controller` is empty for version 2, which has one tree for all."""
    root = f"{_ROOT}/{controller}" if controller else _ROOT
    path = ""
    for line in (readings.text("/proc/self/cgroup") or "").splitlines():
        _, controllers, told = [*line.split(":", 2), "", ""][:3]
        if (controllers == "") if not controller else (controller in controllers.split(",")):
            path = told
    parts = [part for part in path.split("/") if part not in ("", ".", "..")][:_DEEPEST]
    return ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]


def _unified(readings: Readings, folder: str) -> MemoryLimit | None:
    limit, used = whole(readings.text(f"{folder}/memory.max")), whole(readings.text(f"{folder}/memory.current"))
    return _limit(readings, folder, limit, used, ("inactive_file", "active_file"))


def _first_version(readings: Readings, folder: str) -> MemoryLimit | None:
    limit = whole(readings.text(f"{folder}/memory.limit_in_bytes"))
    used = whole(readings.text(f"{folder}/memory.usage_in_bytes"))
    return _limit(readings, folder, limit, used, ("total_inactive_file", "total_active_file"))


def _limit(
    readings: Readings, folder: str, limit: int | None, used: int | None, cached: tuple[str, ...]
) -> MemoryLimit | None:
    """None where there is no limit (`max`, or a number beyond any memory) or it cannot be read."""
    if limit is None:
        return None
    lines = (line.split() for line in (readings.text(f"{folder}/memory.stat") or "").splitlines())
    files = sum(whole(line[1]) or 0 for line in lines if len(line) == 2 and line[0] in cached)
    return MemoryLimit(limit, min(max(used - files, 0), limit) if used is not None else None)

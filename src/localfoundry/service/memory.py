"""What this machine has of memory, and what it is used for: looked at, not decided upon."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from localfoundry.service.ledger import Budget

_CGROUP = Path("/sys/fs/cgroup")


def look(workers: Iterable[int], limit_bytes: int, reserve_bytes: int) -> Budget:
    """The budget of main memory as of now; `workers` are the processes whose memory the ledger counts itself.

    Mapped weights are in the page cache: the system calls them available, so of the workers only what is private is
    taken off. A container's limit counts where it is lower than the machine's memory. `limit_bytes` 0: no other.
    """
    total, used = _machine()
    limit = min(total, limit_bytes) if limit_bytes else total
    own = sum(private_bytes(pid) or 0 for pid in workers)
    return Budget(limit, max(used - own, 0), reserve_bytes)


def _machine() -> tuple[int, int]:
    """Bytes of memory, and of it in use and not to be had back, of the container or else the machine."""
    memory = psutil.virtual_memory()
    machine = memory.total, memory.total - memory.available
    with contextlib.suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())  # "max": ValueError
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        if limit < memory.total:
            return limit, max(int((_CGROUP / "memory.current").read_text()) - cached, 0)
    return machine


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process, mapped weights included; None when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def private_bytes(pid: int) -> int | None:
    """Memory that ending the process gives back to the system; None when it is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return int(memory.rss - memory.shared) if sys.platform.startswith("linux") else int(memory.rss)


def processor_s(pid: int) -> float | None:
    """Seconds of processor time that a process has used; None when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)

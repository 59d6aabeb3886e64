"""What this machine has of memory, and what it is used for: looked at, not decided upon."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from localfoundry.hardware.cgroup import memory_limit
from localfoundry.hardware.readings import ThisSystem
from localfoundry.service.ledger import Budget


def look(workers: Iterable[int], limit_bytes: int, reserve_bytes: int) -> Budget:
    """The budget of main memory as of now; `workers` are the processes whose memory the ledger counts itself.

    Mapped weights are in the page cache: the system calls them available, so of the workers only what is private is
    taken off. A container's limit counts where it is lower than the machine's memory. `limit_bytes` 0: no other.
    """
    total, used = _machine()
    limit = min(total, limit_bytes) if limit_bytes else total
    own = sum(private_bytes(pid) or 0 for pid in workers)
    return Budget(limit, max(used - own, 0), reserve_bytes)


def address_limit() -> int | None:
    """Bytes of addresses that each process here may have (`ulimit -v`), workers included; None: no limit.

    It is no limit of memory: mapped files, stacks and reserved space count, so that no load can be predicted by it.
    """
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _machine() -> tuple[int, int]:
    """Bytes of memory, and of it in use and not to be had back, of the container or else the machine."""
    memory = psutil.virtual_memory()
    used = memory.total - memory.available
    limit = memory_limit(ThisSystem(), memory.total)
    if limit is None:
        return memory.total, used
    return limit.limit, min(used, limit.limit) if limit.used is None else limit.used


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process, mapped weights included; None when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def private_bytes(pid: int) -> int | None:
    """Memory that ending the process gives back to the system, mapped files not included; None when it is gone."""
    try:
        return _unmapped(pid) if sys.platform.startswith("linux") else int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):
        return None


def _unmapped(pid: int) -> int:
    """Anonymous memory, shared mappings of it included: the ONNX worker keeps keys and values in such."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return sum(int(kib) * 1024 for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE))


def processor_s(pid: int) -> float | None:
    """Seconds of processor time that a process has used; None when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)

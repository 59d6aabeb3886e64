"""How much of the processor other programs had while something was measured: what they slowed down teaches nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import psutil

DISTURBED = 0.1  # of the processor's time


class Others:
    """Counts from when it is made. `pids`: of programs that ran before it and belong to the measurement."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._own = {pid: _used_s(pid) for pid in (os.getpid(), *pids)}
        self._busy_s, self._began = _busy_s(), time.perf_counter()

    def share(self, started: Iterable[int] = ()) -> float:
        """0 to 1, of all cores; `started`: programs of the measurement that were started since."""
        own = sum(_used_s(pid) - before for pid, before in self._own.items()) + sum(map(_used_s, started))
        elapsed_s = (time.perf_counter() - self._began) * (psutil.cpu_count() or 1)
        return min(max((_busy_s() - self._busy_s - own) / max(elapsed_s, 1e-9), 0.0), 1.0)


def _busy_s() -> float:
    every = psutil.cpu_times()
    return float(every.user + every.system + getattr(every, "nice", 0.0))


def _used_s(pid: int) -> float:
    """Seconds of processor time of a process; 0 when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)

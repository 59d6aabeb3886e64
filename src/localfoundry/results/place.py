"""Where and with what something was measured: the machine and the versions, as a run keeps them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from localfoundry import __version__


class Machine(msgspec.Struct, frozen=True):
    """Where the figures were taken."""

    cpu: str
    cores: int | None
    threads: int | None
    memory_bytes: int
    system: str


def machine() -> Machine:
    """This machine: processor name, cores, memory, system."""
    import psutil

    return Machine(
        cpu=_cpu_name(),
        cores=psutil.cpu_count(logical=False),
        threads=os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        system=platform.platform(),
    )


def machine_id() -> str:
    """What makes this machine the same one to what was measured here: processor, threads, and memory to the GiB."""
    here = machine()
    return f"{here.cpu}, {here.threads} threads, {round(here.memory_bytes / 2**30)} GiB"


def machine_facts() -> dict[str, object]:
    """The same as a run's row has it."""
    return msgspec.structs.asdict(machine())


def versions() -> dict[str, object]:
    return {"localfoundry": __version__, "python": platform.python_version()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no such file outside Linux
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()

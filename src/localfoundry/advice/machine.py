"""What a machine could give a model, in the estimator's plain numbers: of this machine, or of another's description."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from localfoundry import fit
from localfoundry.advice.processor import processor_of
from localfoundry.config import Settings
from localfoundry.hardware.machine import Disk, Machine

_ARM = ("arm64", "aarch64")


@dataclass(frozen=True, slots=True)
class Means:
    """Bytes and rates; None is what the machine does not tell.

    `memory_bytes` could a load have with nothing else loaded, `free_bytes` now: container limits and the reserve are
    off both. `processor` is None where cores or bandwidth are not known. `isa` is what kernels rearrange weights for.
    """

    name: str
    memory_bytes: int | None
    free_bytes: int | None
    disk_free_bytes: int | None = None
    processor: fit.Processor | None = None
    isa: str = "avx2"
    measured_as: str | None = None  # its name in what was measured here; None: another machine's description


def of_this(machine: Machine, settings: Settings, held_bytes: int = 0) -> Means:
    """This machine. `held_bytes`: memory that a load would get back from models that are loaded now."""
    total = machine.memory.total_bytes
    limit = _least(total, settings.memory_limit_bytes or None)
    available = machine.memory.available_bytes
    if total is not None and limit is not None and available is not None:
        available = limit - max(total - available - held_bytes, 0)
    disk = _holding(machine.disks, settings.models_dir)
    found = _means(machine, limit, available, settings.memory_reserve_bytes, disk.free_bytes if disk else None)
    return replace(found, measured_as=measured_as())


def of_other(machine: Machine, settings: Settings, name: str) -> Means:
    """Another machine, from its `hardware --json`: its memory as it was then, and the local disk with most room."""
    rooms = [disk.free_bytes for disk in machine.disks if disk.free_bytes is not None and disk.kind != "network"]
    memory = machine.memory
    room = max(rooms, default=None)
    found = _means(machine, memory.total_bytes, memory.available_bytes, settings.memory_reserve_bytes, room)
    return replace(found, name=name)


def measured_as() -> str:
    """This machine as far as its home needs to tell it from the one that the home was copied from."""
    return f"{platform.machine()} {platform.system()} {os.cpu_count() or 1}"


def _means(machine: Machine, limit: int | None, available: int | None, reserve: int, disk: int | None) -> Means:
    return Means(
        name=machine.cpu.model or machine.cpu.architecture,
        memory_bytes=None if limit is None else max(limit - reserve, 0),
        free_bytes=None if available is None else max(available - reserve, 0),
        disk_free_bytes=disk,
        processor=processor_of(machine),
        isa="neon" if machine.cpu.architecture.lower() in _ARM else "avx2",
    )


def _holding(disks: tuple[Disk, ...], folder: Path) -> Disk | None:
    """The disk that a folder is on: that of the longest mount that leads to it."""
    leading = {*(str(parent) for parent in folder.parents), str(folder)}
    found = [disk for disk in disks if str(PurePath(disk.mount)) in leading]
    return max(found, key=lambda disk: len(disk.mount), default=None)


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)

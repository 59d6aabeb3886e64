"""A machine as a frozen value, and its JSON form, in which one machine's facts are taken to another.

Bytes are bytes, rates are bytes per second. None means that the system did not tell. The JSON of strangers is bounded:
sizes, counts and lengths beyond any real machine are refused, and so are facts that contradict each other. Fields that
a later version adds are passed over; another `schema` is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from localfoundry.errors import InvalidMachine
from localfoundry.units import format_bytes

SCHEMA: Literal[1] = 1
_LARGEST_FILE = 2**20

Size = Annotated[int, Meta(ge=0, le=2**50)]  # a petabyte of memory, or of one disk, is no machine we know
DiskSize = Annotated[int, Meta(ge=0, le=2**60)]
Count = Annotated[int, Meta(ge=0, le=2**16)]
Rate = Annotated[float, Meta(gt=0, le=1e15)]
Text = Annotated[str, Meta(max_length=400)]
Share = Annotated[float, Meta(ge=0, le=1)]

DiskKind = Literal["nvme", "ssd", "hdd", "card", "network", "unknown"]
Vendor = Literal["nvidia", "amd", "intel", "apple", "qualcomm", "unknown"]


class Cpu(Struct, frozen=True, rename="camel"):
    """`usable` is what affinity and a container's quota leave to this process, in logical processors.

    `performance_cores` and `efficiency_cores` are physical ones, and both None where the system tells no difference.
    `instructions` are those of `cpu.py`, in its order; None: the system does not tell. `cache_bytes` is the last
    level, all of it that this machine sees.
    """

    architecture: Text
    model: Text | None = None
    vendor: Text | None = None
    physical_cores: Count | None = None
    logical_cores: Count | None = None
    performance_cores: Count | None = None
    efficiency_cores: Count | None = None
    usable: Count | None = None
    instructions: Annotated[tuple[Text, ...], Meta(max_length=64)] | None = None
    cache_bytes: Size | None = None


class MemoryFacts(Struct, frozen=True, rename="camel"):
    """`total_bytes` and `available_bytes` are what a process here can have; a container's limit is in both.

    `machine_bytes` is the memory of the whole machine, `limit_bytes` the container's limit where that is lower.
    """

    total_bytes: Size | None = None
    available_bytes: Size | None = None
    machine_bytes: Size | None = None
    limit_bytes: Size | None = None


class Bandwidth(Struct, frozen=True, rename="camel"):
    """Reading main memory with `threads` at once, measured by the probe of `bandwidth.py`; formula there.

    `share` is the part of the time that the probe had the processor (None: not known): what the machine can do lies
    between `bytes_per_s` and `bytes_per_s / share`. `measured_at` is in seconds since 1970.
    """

    bytes_per_s: Rate
    threads: Count
    share: Share | None
    buffer_bytes: Size
    measured_at: Annotated[float, Meta(ge=0, le=1e12)]
    how: Text


class Disk(Struct, frozen=True, rename="camel"):
    mount: Text
    kind: DiskKind = "unknown"
    total_bytes: DiskSize | None = None
    free_bytes: DiskSize | None = None


class Accelerator(Struct, frozen=True, rename="camel"):
    """A GPU or NPU. `driver` is the driver's version, else its name; None where none is bound to it.

    `unified_memory`: it computes in main memory, and what it has of its own (if told) is no limit. `usable_by` are
    engines of this installation; the command line fills it in.
    """

    name: Text
    vendor: Vendor
    kind: Literal["gpu", "npu"]
    memory_bytes: Size | None = None
    free_bytes: Size | None = None
    driver: Text | None = None
    unified_memory: bool | None = None
    usable_by: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()


class Machine(Struct, frozen=True, rename="camel"):
    """Everything of it. `system` is the operating system; `problems` are what was found wrong, in sentences."""

    schema: Literal[1]
    system: Text
    cpu: Cpu
    memory: MemoryFacts
    bandwidth: Bandwidth | None = None
    disks: Annotated[tuple[Disk, ...], Meta(max_length=256)] = ()
    accelerators: Annotated[tuple[Accelerator, ...], Meta(max_length=256)] = ()
    problems: Annotated[tuple[Annotated[str, Meta(max_length=2000)], ...], Meta(max_length=256)] = ()


class _Versioned(Struct):
    schema: int


def encode(machine: Machine) -> bytes:
    """The JSON of `hardware --json`, which `decode` reads."""
    return msgspec.json.format(msgspec.json.encode(machine), indent=2)


def decode(content: bytes, name: str = "the description") -> Machine:
    """A machine from JSON. `name` stands in the words of InvalidMachine, raised for anything that is none."""
    if len(content) > _LARGEST_FILE:
        raise InvalidMachine(f"{name} has {format_bytes(len(content))}; a machine is told in {_LARGEST_FILE:,} bytes")
    try:
        schema = msgspec.json.decode(content, type=_Versioned).schema
        if schema != SCHEMA:
            raise InvalidMachine(f"{name} has schema {schema}; this version reads {SCHEMA}")
        machine = msgspec.json.decode(content, type=Machine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidMachine(f"{name} is not a machine: {exc}") from exc
    contradiction = contradictions(machine)
    if contradiction:
        raise InvalidMachine(f"{name} contradicts itself: {contradiction[0]}")
    return machine


def contradictions(machine: Machine) -> list[str]:
    """What cannot be true together, in words."""
    cpu, memory = machine.cpu, machine.memory
    pairs: list[tuple[str, int | None, str, int | None]] = [
        ("availableBytes", memory.available_bytes, "totalBytes", memory.total_bytes),
        ("limitBytes", memory.limit_bytes, "machineBytes", memory.machine_bytes),
        ("totalBytes", memory.total_bytes, "machineBytes", memory.machine_bytes),
        ("physicalCores", cpu.physical_cores, "logicalCores", cpu.logical_cores),
        ("usable", cpu.usable, "logicalCores", cpu.logical_cores),
        ("performanceCores", cpu.performance_cores, "physicalCores", cpu.physical_cores),
        ("efficiencyCores", cpu.efficiency_cores, "physicalCores", cpu.physical_cores),
    ]
    pairs += [(f"freeBytes of {d.mount}", d.free_bytes, "its totalBytes", d.total_bytes) for d in machine.disks]
    pairs += [(f"freeBytes of {a.name}", a.free_bytes, "its memoryBytes", a.memory_bytes) for a in machine.accelerators]
    return [f"{small_name} ({small:,}) is more than {large_name} ({large:,})"
            for small_name, small, large_name, large in pairs
            if small is not None and large is not None and small > large]  # fmt: skip

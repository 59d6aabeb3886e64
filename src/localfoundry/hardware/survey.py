"""Everything about a machine in one value; what is slow to find out is kept in `<home>/hardware.json`.

Kept are the measured bandwidth and, on a Mac, what `system_profiler` said; both for as long as processor, memory and
boot are the same. A bandwidth that could not be measured, or only while the processor was busy, is tried again, not
before a minute has gone. All else is read anew: it takes milliseconds, and free memory changes. A file that is damaged
or of another machine is measured over; one that cannot be written costs the next call the probe, and that is said.
"""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from localfoundry.config import file
from localfoundry.errors import FoundryError
from localfoundry.hardware import accelerators, apple, bandwidth, cpu, disks, memory, windows
from localfoundry.hardware.machine import SCHEMA, Accelerator, Bandwidth, Cpu, Machine, MemoryFacts
from localfoundry.hardware.readings import Readings, ThisSystem

_MOST_KEPT = 2**20
_PATIENCE_S = 60.0


class Probe(enum.Enum):
    """When the bandwidth is measured: where it is not known yet, in any case, or not at all."""

    ONCE = "once"
    AGAIN = "again"
    NEVER = "never"


class _Kept(msgspec.Struct, frozen=True, rename="camel"):
    schema: Literal[1]
    key: str
    bandwidth: Bandwidth | None = None
    doubt: str | None = None  # what is wrong with it, or why there is none
    tried_at: float = 0.0  # seconds since 1970
    gpus: tuple[Accelerator, ...] | None = None


def survey(home: Path, probe: Probe = Probe.ONCE, readings: Readings | None = None, nvml: Any | None = None) -> Machine:
    """The machine as of now; blocks for at most 0.3 s more where the bandwidth is measured.

    `readings` and `nvml` stand in for this machine in tests. Raises nothing: what cannot be read is None, and the
    reason is among the problems where there is one to tell.
    """
    asked = readings or ThisSystem()
    processor, problems = _cpu(asked)
    facts = memory.read(asked)
    if facts.total_bytes is None:
        problems.append("the size of the memory is unknown: the system does not tell")
    path = home / "hardware.json"
    key = _key(asked, processor, facts)
    kept = _read(path, key)
    new = kept if probe is not Probe.AGAIN else _Kept(SCHEMA, key)
    gpus, found, new = _accelerators(asked, new, nvml)
    problems += found
    if probe is not Probe.NEVER and _wants_probe(new):
        new = _probed(new, processor, facts)
        if (
            new.bandwidth is None and kept.bandwidth is not None
        ):  # asked for again in vain: better the old one than none
            problems += [new.doubt] if new.doubt else []
            new = msgspec.structs.replace(kept, tried_at=new.tried_at)
    if new != kept:
        problems += _write(path, new)
    if new.doubt:
        problems.append(new.doubt)
    return Machine(
        SCHEMA,
        asked.system,
        processor,
        facts,
        new.bandwidth,
        disks.linux(asked) if asked.system == "Linux" else disks.elsewhere(asked),
        tuple(gpus),
        tuple(dict.fromkeys(problem[:2000] for problem in problems)),
    )


def _wants_probe(kept: _Kept) -> bool:
    """Where there is none, or a disturbed one, and the last try is a minute ago."""
    share = kept.bandwidth.share if kept.bandwidth is not None else 0.0
    return (
        share is not None
        and share < bandwidth.UNDISTURBED
        and not kept.tried_at <= time.time() < kept.tried_at + _PATIENCE_S
    )


def _probed(kept: _Kept, processor: Cpu, facts: MemoryFacts) -> _Kept:
    """With a new measurement, unless that was disturbed more than the one there is."""
    measured, doubt = bandwidth.measure(processor, facts)
    old = kept.bandwidth
    if old is not None and (measured is None or (measured.share or 0) < (old.share or 0)):
        return msgspec.structs.replace(kept, tried_at=time.time())
    return msgspec.structs.replace(kept, bandwidth=measured, doubt=doubt, tried_at=time.time())


def _cpu(readings: Readings) -> tuple[Cpu, list[str]]:
    if readings.system == "Linux":
        found = cpu.linux(readings)
    elif readings.system == "Darwin":
        found = cpu.darwin(readings)
    elif readings.system == "Windows":
        found = windows.cpu(readings, windows.topology(), windows.features())
    else:
        found = Cpu(readings.architecture)
    found = cpu.plausible(found)
    problems = [] if found.logical_cores else ["the number of processor cores is unknown: the system does not tell"]
    if readings.system == "Windows" and "AVX2" in (found.instructions or ()):
        problems.append("whether the processor has VNNI or AMX is unknown: Windows does not tell")
    return found, problems


def _accelerators(readings: Readings, kept: _Kept, nvml: Any | None) -> tuple[list[Accelerator], list[str], _Kept]:
    if readings.system == "Linux":
        return *accelerators.linux(readings, nvml), kept
    if readings.system == "Windows":
        return *windows.accelerators(readings, nvml), kept
    if readings.system != "Darwin":
        return [], [f"accelerators are unknown: they cannot be read on {readings.system}"], kept
    if kept.gpus is not None:
        return list(kept.gpus), [], kept
    gpus, problems = apple.read(readings)
    return gpus, problems, kept if problems else msgspec.structs.replace(kept, gpus=tuple(gpus))


def _key(readings: Readings, processor: Cpu, facts: MemoryFacts) -> str:
    if readings.system == "Linux":
        boot = readings.text("/proc/sys/kernel/random/boot_id")
    else:
        boot = readings.output("sysctl", "-n", "kern.boottime") if readings.system == "Darwin" else None
    return "|".join(str(part) for part in (processor.model, processor.physical_cores, processor.logical_cores,
                                           processor.usable, facts.machine_bytes, boot))  # fmt: skip


def _read(path: Path, key: str) -> _Kept:
    """What is kept of this machine; an empty one where there is nothing that can be used."""
    try:
        with path.open("rb") as stream:
            kept = msgspec.json.decode(stream.read(_MOST_KEPT), type=_Kept)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Kept(SCHEMA, key)
    return kept if kept.key == key else _Kept(SCHEMA, key)


def _write(path: Path, kept: _Kept) -> list[str]:
    try:
        file.write(path, msgspec.json.encode(kept).decode())
    except FoundryError:
        return [
            "what was measured could not be kept: the folder of this program cannot be written; it is measured again"
        ]
    return []

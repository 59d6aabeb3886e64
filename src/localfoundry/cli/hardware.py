"""`foundry hardware`: what this machine has, what can use it, and what is wrong with it."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import click

from localfoundry.cli import context, output
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from localfoundry.engines.devices import Reach
    from localfoundry.hardware.machine import Accelerator, Bandwidth, Cpu, Machine, MemoryFacts

_LABEL = 14
_NARROW = 60  # below it, a value stands on a line of its own


@click.command("hardware")
@click.option("--probe", is_flag=True, help="Measure the memory bandwidth again; else what was measured before counts.")
@context.json_option
def hardware(probe: bool, as_json: bool) -> None:
    """Show processor, memory and its bandwidth, disks, GPUs and NPUs, and which engines can use them."""
    from localfoundry.engines import devices, engines
    from localfoundry.hardware import machine
    from localfoundry.hardware.survey import Probe, survey

    given = context.usable_settings()
    reaches = devices.reach(given) + devices.of_libraries(engines())
    found = devices.with_engines(survey(given.home, Probe.AGAIN if probe else Probe.ONCE), reaches)
    if as_json:
        output.data(machine.encode(found).decode())
        return
    _show(found, reaches)


def _show(machine: Machine, reaches: tuple[Reach, ...]) -> None:
    facts = [*_processor(machine.cpu), *_memory(machine.memory), ("Bandwidth", _bandwidth(machine.bandwidth))]
    facts += [("Engine", _engine(reach)) for reach in reaches]
    for line in folded(facts, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        output.data(line)
    output.data()
    if machine.accelerators:
        rows = [_row(accelerator) for accelerator in machine.accelerators]
        output.table(("GPU or NPU", "Kind", "Memory", "Free", "Driver", "Used by"), rows)
    else:
        output.data("GPUs and NPUs: none found")
    output.data()
    sizes = [[d.mount, d.kind, format_bytes(d.total_bytes), format_bytes(d.free_bytes)] for d in machine.disks]
    output.table(("Disk", "Kind", "Size", "Free"), sizes)
    for problem in machine.problems:
        output.note(f"note: {problem}")


def _processor(cpu: Cpu) -> list[tuple[str, str]]:
    about = ", ".join(part for part in (cpu.vendor, cpu.architecture) if part and part not in (cpu.model or ""))
    instructions = "unknown" if cpu.instructions is None else ", ".join(cpu.instructions) or "none that matter"
    return [
        ("Processor", f"{cpu.model or 'unknown'} ({about})" if about else cpu.model or "unknown"),
        ("Cores", _cores(cpu)),
        ("Instructions", instructions),
        ("Last cache", format_bytes(cpu.cache_bytes)),
    ]


def _cores(cpu: Cpu) -> str:
    told = f"{cpu.physical_cores or 'unknown number of'} physical, {cpu.logical_cores or 'unknown number of'} logical"
    if cpu.performance_cores is not None and cpu.efficiency_cores is not None:
        told += f"; {cpu.performance_cores} performance and {cpu.efficiency_cores} efficiency cores"
    if cpu.usable is not None and cpu.usable != cpu.logical_cores:
        told += f"; {cpu.usable} for this process"
    return told


def _memory(memory: MemoryFacts) -> list[tuple[str, str]]:
    told = f"{format_bytes(memory.total_bytes)}, {format_bytes(memory.available_bytes)} available"
    if memory.limit_bytes is not None:
        told += f" (a container's limit; the machine has {format_bytes(memory.machine_bytes)})"
    return [("Memory", told)]


def _bandwidth(found: Bandwidth | None) -> str:
    if found is None:
        return "unknown"
    ago = format_duration(max(time.time() - found.measured_at, 0))
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    return f"{format_bytes(int(found.bytes_per_s))}/s read by {threads}, measured {ago} ago"


def _engine(reach: Reach) -> str:
    if reach.missing is not None:
        return f"{reach.engine}: {reach.missing}"
    names = ", ".join(name for _, name in reach.devices or ())
    where = "unknown devices" if reach.devices is None else f"the processor and {names}" if names else "the processor"
    return f"{reach.engine}: {', '.join(reach.formats)} on {where}" + (f" ({reach.reason})" if reach.reason else "")


def _row(accelerator: Accelerator) -> list[str]:
    return [
        accelerator.name,
        accelerator.kind.upper(),
        _shared(accelerator.unified_memory, accelerator.memory_bytes),
        format_bytes(accelerator.free_bytes),
        accelerator.driver or "none",
        ", ".join(accelerator.usable_by) or "no engine here",
    ]


def _shared(unified: bool | None, own: int | None) -> str:
    return "shares main memory" if unified and own is None else format_bytes(own)


def folded(facts: list[tuple[str, str]], room: int | None) -> list[str]:
    """Labels and their values in `room` characters; below 60 of them a value starts on a line of its own."""
    lines: list[str] = []
    for label, value in facts:
        if room is None:
            lines.append(f"{label:{_LABEL}}{value}")
        elif room < _NARROW:
            lines += [label, *textwrap.wrap(value, max(room, 20), initial_indent="    ", subsequent_indent="    ")]
        else:
            wrapped = textwrap.wrap(value, room - _LABEL) or [""]
            lines += [f"{label if number == 0 else '':{_LABEL}}{line}" for number, line in enumerate(wrapped)]
    return lines

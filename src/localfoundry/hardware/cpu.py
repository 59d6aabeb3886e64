"""The processor: its model, its cores, the instructions that kernels for language models look for.

Linux: /proc/cpuinfo and /sys. macOS: `sysctl`. Windows: `windows.py`. Cores are counted, not looked up by model name.
Hybrid processors are told by the kernel: Intel's by the two kinds of performance counters, Arm's by capacity.
"""

from __future__ import annotations

import msgspec

from localfoundry.hardware.cgroup import processor_quota
from localfoundry.hardware.machine import Cpu
from localfoundry.hardware.readings import Readings, cpu_list, properties, whole

_TOPOLOGY = "/sys/devices/system/cpu"
_MOST_CPUS = 2**16

# What the kernel calls it, and what everybody else does; the order is that of the output.
_LINUX_FLAGS = {
    "f16c": "F16C", "fma": "FMA", "avx": "AVX", "avx2": "AVX2", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512F",
    "avx512_vnni": "AVX512-VNNI", "avx512_bf16": "AVX512-BF16", "amx_int8": "AMX-INT8", "amx_bf16": "AMX-BF16",
    "neon": "NEON", "asimd": "NEON", "asimdhp": "FP16", "asimddp": "DOTPROD", "bf16": "BF16", "i8mm": "I8MM",
    "sve": "SVE", "sve2": "SVE2", "sme": "SME",
}  # fmt: skip
_DARWIN_FLAGS = {
    "F16C": "F16C", "FMA": "FMA", "AVX1.0": "AVX", "AVX2": "AVX2", "AVX512F": "AVX-512F", "AVX512VNNI": "AVX512-VNNI",
    "neon": "NEON", "AdvSIMD": "NEON", "arm.AdvSIMD": "NEON", "arm.FEAT_FP16": "FP16", "arm.FEAT_DotProd": "DOTPROD",
    "arm.FEAT_BF16": "BF16", "arm.FEAT_I8MM": "I8MM", "arm.FEAT_SME": "SME",
}  # fmt: skip
# Implementer and part of /proc/cpuinfo on Arm (arch/arm64/include/asm/cputype.h), for those seen in machines of use.
_ARM = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse N1", (0x41, 0xD40): "Neoverse V1",
    (0x41, 0xD41): "Cortex-A78", (0x41, 0xD44): "Cortex-X1", (0x41, 0xD46): "Cortex-A510", (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD48): "Cortex-X2", (0x41, 0xD49): "Neoverse N2", (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse V2", (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4", (0x41, 0xD84): "Neoverse V3", (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725", (0x41, 0xD8E): "Neoverse N3", (0x51, 0x001): "Qualcomm Oryon",
    (0xC0, 0xAC3): "Ampere-1", (0xC0, 0xAC4): "Ampere-1a", (0x46, 0x001): "Fujitsu A64FX",
    (0x48, 0xD01): "HiSilicon TaiShan v110",
}  # fmt: skip
_IMPLEMENTERS = {0x41: "ARM", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm", 0x61: "Apple",
                 0xC0: "Ampere"}  # fmt: skip


def linux(readings: Readings) -> Cpu:
    """From /proc/cpuinfo and /sys; each fact stands for itself, so that damage to one leaves the others."""
    blocks = cpuinfo(readings.text("/proc/cpuinfo") or "")
    online = cpu_list(readings.text(f"{_TOPOLOGY}/online"))
    logical = len(online) or len(blocks) or None
    siblings = _siblings(readings, online)
    performance, efficiency = _kinds(readings, siblings)
    physical = len(set(siblings.values())) or _physical_by_cpuinfo(blocks)
    return Cpu(
        architecture=readings.architecture,
        model=_model(readings, blocks),
        vendor=_vendor(blocks),
        physical_cores=min(physical, logical) if physical and logical else physical,
        logical_cores=logical,
        performance_cores=performance,
        efficiency_cores=efficiency,
        usable=_usable(readings, logical),
        instructions=_instructions(blocks),
        cache_bytes=_last_level_cache(readings, online),
    )


def cpuinfo(text: str) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo that stand for a processor; a later `Model` or `Hardware` is in the last one."""
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            continue
        if key.strip() == "processor" and len(blocks) < _MOST_CPUS:
            blocks.append({})
        if blocks:
            blocks[-1].setdefault(key.strip(), value.strip())
    return blocks


def _model(readings: Readings, blocks: list[dict[str, str]]) -> str | None:
    for block in blocks[:1]:
        if block.get("model name"):
            return block["model name"][:200]
    names = [_ARM.get((whole(b.get("CPU implementer"), 16) or 0, whole(b.get("CPU part"), 16) or 0)) for b in blocks]
    known = " + ".join(dict.fromkeys(name for name in names if name))
    board = readings.text("/proc/device-tree/model") or (blocks[-1].get("Model") if blocks else None)
    told = f"{board} ({known})" if board and known else board or known
    return told[:200] or None if told else None


def _vendor(blocks: list[dict[str, str]]) -> str | None:
    first = blocks[0] if blocks else {}
    named = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    if first.get("vendor_id"):
        return named.get(first["vendor_id"], first["vendor_id"])[:200]
    return _IMPLEMENTERS.get(whole(first.get("CPU implementer"), 16) or 0)


def _instructions(blocks: list[dict[str, str]]) -> tuple[str, ...] | None:
    """What every core can: a thread may run on any of them. None where the kernel lists no flags."""
    texts = {block.get("flags") or block.get("Features") or "" for block in blocks}
    if not texts or "" in texts:
        return None
    common = frozenset.intersection(*(frozenset(text.split()) for text in texts))
    return tuple(dict.fromkeys(name for flag, name in _LINUX_FLAGS.items() if flag in common))


def _siblings(readings: Readings, online: frozenset[int]) -> dict[int, frozenset[int]]:
    """By logical processor the ones of the same physical core; nothing where the kernel does not tell for all."""
    found: dict[int, frozenset[int]] = {}
    for number in sorted(online):
        if number in found:
            continue
        folder = f"{_TOPOLOGY}/cpu{number}/topology"
        text = readings.text(f"{folder}/core_cpus_list") or readings.text(f"{folder}/thread_siblings_list")
        together = cpu_list(text) & online
        if number not in together:
            return {}
        found.update(dict.fromkeys(together, together))
    return found


def _physical_by_cpuinfo(blocks: list[dict[str, str]]) -> int | None:
    cores = {(block.get("physical id"), block.get("core id")) for block in blocks}
    return len(cores) if cores and not any(None in core for core in cores) else None


def _kinds(readings: Readings, siblings: dict[int, frozenset[int]]) -> tuple[int | None, int | None]:
    """Physical performance and efficiency cores.

    Intel: the processors of the counters `cpu_core` and `cpu_atom`. Arm: those of the lowest capacity are efficient,
    all others performant. On x86 capacity also differs between equal cores, by how well each was made.
    """

    def cores(numbers: frozenset[int]) -> int:
        return len({siblings[number] for number in numbers if number in siblings})

    fast, slow = (cpu_list(readings.text(f"/sys/devices/{kind}/cpus")) for kind in ("cpu_core", "cpu_atom"))
    if fast and slow and siblings:
        return cores(fast), cores(slow)
    if readings.architecture in ("aarch64", "arm64", "armv7l", "armv8l"):
        told = {number: whole(readings.text(f"{_TOPOLOGY}/cpu{number}/cpu_capacity")) for number in siblings}
        levels = {level for level in told.values() if level is not None}
        if len(levels) > 1 and None not in told.values():
            lowest = frozenset(number for number, level in told.items() if level == min(levels))
            return cores(frozenset(told) - lowest), cores(lowest)
    return None, None


def _last_level_cache(readings: Readings, online: frozenset[int]) -> int | None:
    """The caches of the highest level, each counted once: cores share them in groups."""
    total, covered = 0, set[int]()
    for number in sorted(online):
        if number in covered:
            continue
        folder = f"{_TOPOLOGY}/cpu{number}/cache"
        levels = [(level, name) for name in readings.names(folder) if name.startswith("index")
                  if (level := whole(readings.text(f"{folder}/{name}/level"), most=8)) is not None]  # fmt: skip
        if not levels:
            return None
        last = f"{folder}/{max(levels)[1]}"
        size = readings.text(f"{last}/size") or ""
        kibibytes = whole(size.removesuffix("K"), most=2**24)
        if kibibytes is None or not size.endswith("K"):
            return None
        total += kibibytes * 1024
        covered |= cpu_list(readings.text(f"{last}/shared_cpu_list")) | {number}
    return total or None


def _usable(readings: Readings, logical: int | None) -> int | None:
    allowed = cpu_list(properties(readings.text("/proc/self/status"), ":").get("Cpus_allowed_list"))
    quota = processor_quota(readings)
    limits = [
        n
        for n in (logical, len(allowed) or None, max(1, min(round(quota), _MOST_CPUS)) if quota else None)
        if n is not None
    ]
    return min(limits) if limits else None


def darwin(readings: Readings) -> Cpu:
    """From `sysctl`: perflevel0 are the performance cores, perflevel1 the efficient ones."""
    told = properties(readings.output("sysctl", "hw", "machdep.cpu"), ":")
    physical, logical = whole(told.get("hw.physicalcpu"), most=4096), whole(told.get("hw.logicalcpu"), most=4096)
    performance = whole(told.get("hw.perflevel0.physicalcpu"), most=4096)
    efficiency = whole(told.get("hw.perflevel1.physicalcpu"), most=4096)
    hybrid = performance is not None and efficiency is not None
    present = {key.removeprefix("hw.optional.") for key, value in told.items() if value == "1"}
    present |= set(f"{told.get('machdep.cpu.features', '')} {told.get('machdep.cpu.leaf7_features', '')}".split())
    model = told.get("machdep.cpu.brand_string")
    vendor = told.get("machdep.cpu.vendor") or ("Apple" if model and model.startswith("Apple ") else None)
    cache = whole(told.get("hw.l3cachesize"), most=2**40) or whole(told.get("hw.perflevel0.l2cachesize"), most=2**40)
    instructions = tuple(dict.fromkeys(name for key, name in _DARWIN_FLAGS.items() if key in present))
    return Cpu(
        architecture=readings.architecture,
        model=model[:200] if model else None,
        vendor=vendor[:200] if vendor else None,
        physical_cores=physical,
        logical_cores=logical,
        performance_cores=performance if hybrid else None,
        efficiency_cores=efficiency if hybrid else None,
        usable=logical,
        instructions=instructions or None,
        cache_bytes=cache or None,
    )


def plausible(found: Cpu) -> Cpu:
    """Without the counts that contradict others: a damaged answer must not become a fact."""
    logical = found.logical_cores

    def within(part: int | None, most: int | None) -> int | None:
        return None if part is not None and most is not None and part > most else part

    physical = within(found.physical_cores, logical)
    kinds = (found.performance_cores, found.efficiency_cores)
    known = [n for n in kinds if n is not None]
    agree = len(known) == 2 and physical is not None and sum(known) <= physical
    return msgspec.structs.replace(
        found,
        physical_cores=physical,
        usable=within(found.usable, logical),
        performance_cores=kinds[0] if agree else None,
        efficiency_cores=kinds[1] if agree else None,
    )

"""Processor and accelerators of Windows: the registry, and two calls of the kernel whose answers are read as bytes.

Windows tells of AVX2 and AVX-512F but not of VNNI and AMX; that is said among the problems. NVIDIA's GPUs come from
NVML with their free memory, all others from the registry.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from localfoundry.hardware import nvidia
from localfoundry.hardware.machine import Accelerator, Cpu, Vendor
from localfoundry.hardware.readings import Readings, whole

_CPU = r"HARDWARE\DESCRIPTION\System\CentralProcessor"
_CLASS = r"SYSTEM\CurrentControlSet\Control\Class"
_DISPLAY = _CLASS + r"\{4d36e968-e325-11ce-bfc1-08002be10318}"
_COMPUTE = _CLASS + r"\{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}"
# Numbers of IsProcessorFeaturePresent (winnt.h).
_FEATURES = {39: "AVX", 40: "AVX2", 41: "AVX-512F", 19: "NEON", 43: "DOTPROD", 46: "SVE", 47: "SVE2", 66: "I8MM",
             67: "FP16", 68: "BF16"}  # fmt: skip
_VENDORS: dict[str, Vendor] = {"10DE": "nvidia", "1002": "amd", "1022": "amd", "8086": "intel", "QCOM": "qualcomm"}
_CORE, _CACHE, _ALL = 0, 2, 0xFFFF


class Topology(NamedTuple):
    """Cores by efficiency class (a higher one is faster), logical processors, and the last level of cache."""

    classes: dict[int, int]
    logical: int
    cache_bytes: int | None


def cpu(readings: Readings, topology: Topology | None, features: Iterable[int]) -> Cpu:
    """`topology` and `features` are of the calls below; None and nothing where they did not answer."""
    told = readings.registry(_CPU + r"\0")
    logical = (topology.logical if topology else 0) or len(readings.registry_keys(_CPU)) or None
    classes = topology.classes if topology else {}
    hybrid = len(classes) > 1
    slowest = classes.get(min(classes)) if hybrid else None
    vendor = told.get("VendorIdentifier")
    physical = sum(classes.values()) or None
    return Cpu(
        architecture=readings.architecture,
        model=told.get("ProcessorNameString", "").strip()[:200] or None,
        vendor={"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}.get(vendor, vendor[:200]) if vendor else None,
        physical_cores=min(physical, logical) if physical and logical else physical,
        logical_cores=logical,
        performance_cores=sum(classes.values()) - slowest if slowest is not None else None,
        efficiency_cores=slowest,
        usable=logical,
        instructions=tuple(_FEATURES[number] for number in _FEATURES if number in set(features)) or None,
        cache_bytes=topology.cache_bytes if topology else None,
    )


def parse_topology(content: bytes) -> Topology | None:
    """Records of GetLogicalProcessorInformationEx; None where they are damaged.

    Each: kind and size as 32 bits. A core: flags, efficiency class (8 bits each), 20 bytes, the number of groups (16),
    then per group a mask of 64 bits in 16 bytes. A cache: level (8), associativity (8), line (16), size (32).
    """
    classes: dict[int, int] = {}
    caches: dict[int, int] = {}
    logical = offset = 0
    try:
        while offset < len(content):
            kind, size = struct.unpack_from("<II", content, offset)
            if size < 8 or offset + size > len(content):
                return None
            if kind == _CORE:
                level = content[offset + 9]
                (groups,) = struct.unpack_from("<H", content, offset + 30)
                masks = [struct.unpack_from("<Q", content, offset + 32 + 16 * group)[0] for group in range(groups)]
                classes[level] = classes.get(level, 0) + 1
                logical += sum(mask.bit_count() for mask in masks)
            elif kind == _CACHE:
                level, (bytes_of_it,) = content[offset + 8], struct.unpack_from("<I", content, offset + 12)
                caches[level] = caches.get(level, 0) + bytes_of_it
            offset += size
    except (struct.error, IndexError):
        return None
    return Topology(classes, logical, caches[max(caches)] or None if caches else None) if classes else None


def accelerators(readings: Readings, nvml: Any | None = None) -> tuple[list[Accelerator], list[str]]:
    """`nvml` stands in for NVML in tests."""
    registered = _registered(readings, _DISPLAY, "gpu") + _registered(readings, _COMPUTE, "npu")
    if not any(a.vendor == "nvidia" for a in registered):
        return registered, []
    found, problems = nvidia.read(readings, nvml)
    return (found + [a for a in registered if a.vendor != "nvidia"] if found else registered), problems


def _registered(readings: Readings, folder: str, kind: Literal["gpu", "npu"]) -> list[Accelerator]:
    found = []
    for key in readings.registry_keys(folder):
        told = readings.registry(f"{folder}\\{key}")
        match = re.match(r"(?:PCI|ACPI)\\VEN_([0-9A-Z]{4})", told.get("MatchingDeviceId", "").upper())
        vendor = _VENDORS.get(match[1]) if match else None
        if vendor is None or not re.fullmatch(r"\d{4}", key):
            continue
        size = whole(told.get("HardwareInformation.qwMemorySize"), most=2**50)
        name, version = told.get("DriverDesc") or f"unnamed {kind.upper()}", told.get("DriverVersion")
        found.append(Accelerator(name[:200], vendor, kind, size or None, None,
                                 version[:200] if version else None))  # fmt: skip
    return found


if sys.platform == "win32":
    import ctypes

    def topology() -> Topology | None:
        """What the kernel says of cores and caches."""
        call = ctypes.windll.kernel32.GetLogicalProcessorInformationEx
        size = ctypes.c_ulong(0)
        call(_ALL, None, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        return parse_topology(buffer.raw) if call(_ALL, buffer, ctypes.byref(size)) else None

    def features() -> list[int]:
        """Which of the instructions that Windows knows of are there."""
        return [number for number in _FEATURES if ctypes.windll.kernel32.IsProcessorFeaturePresent(number)]

else:

    def topology() -> Topology | None:
        return None

    def features() -> list[int]:
        return []

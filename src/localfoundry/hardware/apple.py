"""GPUs of a Mac, from `system_profiler`. It takes most of a second, so `survey.py` keeps what it said."""

from __future__ import annotations

import re

import msgspec

from localfoundry.hardware.machine import Accelerator, Vendor
from localfoundry.hardware.readings import Readings, properties, whole
from localfoundry.units import parse_bytes


class _Gpu(msgspec.Struct):
    sppci_model: str | None = None
    sppci_cores: str | None = None
    spdisplays_vendor: str | None = None
    spdisplays_vram: str | None = None
    spdisplays_mtlgpufamilysupport: str | None = None


class _Displays(msgspec.Struct):
    SPDisplaysDataType: tuple[_Gpu, ...]


def read(readings: Readings) -> tuple[list[Accelerator], list[str]]:
    """GPUs and problems. Apple's own compute in main memory; how much they may wire is a setting."""
    text = readings.output("system_profiler", "-json", "SPDisplaysDataType", timeout_s=10)
    if text is None:
        return [], ["GPUs are unknown: system_profiler did not answer within 10 s"]
    try:
        gpus = msgspec.json.decode(text, type=_Displays).SPDisplaysDataType
    except (msgspec.DecodeError, RecursionError):
        return [], ["GPUs are unknown: system_profiler answered something that cannot be read"]
    limit = whole(
        properties(readings.output("sysctl", "iogpu.wired_limit_mb"), ":").get("iogpu.wired_limit_mb"), most=2**30
    )
    return [_accelerator(gpu, limit) for gpu in gpus[:16]], []


def _accelerator(gpu: _Gpu, wired_limit_mebibytes: int | None) -> Accelerator:
    vendor = _vendor(f"{gpu.spdisplays_vendor or ''} {gpu.sppci_model or ''}")
    cores = f" ({gpu.sppci_cores} cores)" if whole(gpu.sppci_cores, most=4096) else ""
    metal = re.search(r"metal(\d+)", gpu.spdisplays_mtlgpufamilysupport or "")
    memory = wired_limit_mebibytes * 2**20 if vendor == "apple" and wired_limit_mebibytes else _own(gpu.spdisplays_vram)
    return Accelerator(
        f"{gpu.sppci_model or 'unnamed GPU'}{cores}"[:200], vendor, "gpu", memory, None,
        f"Metal {metal[1]}" if metal else None, True if vendor == "apple" else None,
    )  # fmt: skip


def _vendor(text: str) -> Vendor:
    lowered = text.lower()
    names: dict[str, Vendor] = {"apple": "apple", "amd": "amd", "intel": "intel", "nvidia": "nvidia"}
    return next((vendor for word, vendor in names.items() if word in lowered), "unknown")


def _own(text: str | None) -> int | None:
    """`4 GB`, which Apple writes for units of 1,024."""
    try:
        size = parse_bytes(re.sub(r"\b([MG])B\b", r"\1iB", text or "x"))
    except ValueError:
        return None
    return size if 0 < size <= 2**50 else None

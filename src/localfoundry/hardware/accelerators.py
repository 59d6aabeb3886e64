"""GPUs and NPUs of any vendor, and what keeps them from being used, in words.

What is on the bus but has no driver is shown with the reason, so that nobody has to wonder where the GPU has gone.
"""

from __future__ import annotations

from typing import Any

from localfoundry.hardware import nvidia, pci
from localfoundry.hardware.machine import Accelerator
from localfoundry.hardware.pci import PciDevice
from localfoundry.hardware.readings import Readings, properties, whole

Found = tuple[list[Accelerator], list[str]]

_RENDER = 'sudo usermod -aG render "$USER", then log in again'
_KFD = "/sys/class/kfd/kfd/topology/nodes"


def linux(readings: Readings, nvml: Any | None = None) -> Found:
    """Everything on the bus, and what only a driver shows (WSL). `nvml` stands in for NVML in tests."""
    devices = pci.accelerators(readings)
    found, problems = _nvidia(readings, [d for d in devices if d.vendor == "nvidia"], nvml)
    for device in devices:
        if device.vendor == "nvidia":
            continue
        problem = _unbound(readings, device)
        if problem:
            problems.append(problem)
            found.append(_plain(readings, device, None))
        else:
            found.append(_bound(readings, device))
    problems += _forbidden(readings, devices)
    return found, problems


def _nvidia(readings: Readings, on_bus: list[PciDevice], nvml: Any | None) -> Found:
    """By the driver where it answers, else by the bus."""
    through_host = readings.may_use("/dev/dxg") is not None  # WSL: the GPU is the host's and not on our bus
    device_files = readings.may_use("/dev/nvidiactl") is not None
    if not (on_bus or through_host or device_files):
        return [], []
    if on_bus and not device_files and all(d.driver in ("vfio-pci", "nouveau", "nova") for d in on_bus):
        return [_plain(readings, d, d.driver) for d in on_bus], [p for d in on_bus if (p := _unbound(readings, d))]
    found, problems = nvidia.read(readings, nvml)
    if not on_bus and not device_files:  # in WSL a host without an NVIDIA GPU is nothing to complain of
        problems = [p for p in problems if not nvidia.library_is_missing(p)]
    if found:
        if len(found) < len(on_bus):
            problems.append(f"the bus has {len(on_bus)} NVIDIA GPUs, and the driver shows {len(found)} to this process")
        return found, problems
    names = ", ".join(f"{pci.name(readings, d)} at {d.slot}" for d in on_bus)
    return [_plain(readings, d, None) for d in on_bus], [f"{p} (there is {names})" if names else p for p in problems]


def _unbound(readings: Readings, device: PciDevice) -> str | None:
    """Why the device cannot compute although it is there."""
    what = f"{pci.name(readings, device)} at {device.slot}"
    if device.driver is None:
        return f"{what}: no driver is bound to it; install the vendor's driver or a newer kernel"
    if device.driver == "vfio-pci":
        return f"{what}: it is set aside for a virtual machine (driver vfio-pci)"
    if device.driver in ("nouveau", "nova"):
        return f"{what}: the driver {device.driver} offers no CUDA; install NVIDIA's driver"
    if device.driver == "radeon":
        return f"{what}: the driver radeon offers no computing; amdgpu would, where it knows this GPU"
    return None


def _plain(readings: Readings, device: PciDevice, driver: str | None) -> Accelerator:
    return Accelerator(pci.name(readings, device), device.vendor, "npu" if device.is_npu else "gpu", driver=driver)


def _bound(readings: Readings, device: PciDevice) -> Accelerator:
    driver = device.driver or ""
    version = readings.text(f"/sys/module/{driver}/version")
    told = f"{driver} {version}"[:200] if version else driver[:200]
    plain = _plain(readings, device, told)
    if device.is_npu:
        return Accelerator(plain.name, plain.vendor, "npu", driver=told, unified_memory=True)
    if device.vendor == "amd":
        total = whole(readings.text(f"{device.folder}/mem_info_vram_total"), most=2**50)
        used = whole(readings.text(f"{device.folder}/mem_info_vram_used"), most=2**50)
        free = max(total - used, 0) if total is not None and used is not None else None
        return Accelerator(plain.name, "amd", "gpu", total, free, told, _amd_shares_memory(readings, device))
    if device.vendor == "intel":
        total = _intel_memory(readings, device)
        return Accelerator(plain.name, "intel", "gpu", total, None, told, device.integrated)
    return plain


def _amd_shares_memory(readings: Readings, device: PciDevice) -> bool | None:
    """The driver's topology has a node with cores of both kinds for a processor with graphics; None: not told."""
    parts = device.slot.replace(".", ":").split(":")
    bus, unit, function = (whole(part, 16, 255) for part in (parts + [""] * 4)[1:4])
    if bus is None or unit is None or function is None:
        return None
    for node in readings.names(_KFD):
        told = properties(readings.text(f"{_KFD}/{node}/properties"), " ")
        if whole(told.get("simd_count")) and whole(told.get("location_id")) == bus << 8 | unit << 3 | function:
            cores = whole(told.get("cpu_cores_count"))
            return None if cores is None else cores > 0
    return None


def _intel_memory(readings: Readings, device: PciDevice) -> int | None:
    """The memory of its own: `xe` tells it by tile, `i915` by card in some versions."""
    tiles = [name for name in readings.names(device.folder) if name.startswith("tile")]
    sizes = [whole(readings.text(f"{device.folder}/{tile}/physical_vram_size_bytes"), 0, 2**50) for tile in tiles]
    told = [size for size in sizes if size]
    if told:
        return sum(told) if sum(told) <= 2**50 else None
    for card in readings.names(f"{device.folder}/drm"):
        size = whole(readings.text(f"{device.folder}/drm/{card}/lmem_total_bytes"), most=2**50)
        if size:
            return size
    return None


def _forbidden(readings: Readings, devices: list[PciDevice]) -> list[str]:
    """Device files that this account may not open."""
    problems = []
    if any(d.vendor == "amd" and d.driver == "amdgpu" for d in devices) and readings.may_use("/dev/kfd") is False:
        problems.append(f"this account may not compute on the AMD GPU (/dev/kfd): {_RENDER}")
    gpus = any(d.vendor in ("amd", "intel") and not d.is_npu and d.driver for d in devices)
    nodes = [name for name in readings.names("/dev/dri") if name.startswith("renderD")] if gpus else []
    if nodes and not any(readings.may_use(f"/dev/dri/{name}") for name in nodes):
        problems.append(f"this account may not use the GPU (/dev/dri/{nodes[0]}): {_RENDER}")
    if any(d.is_npu and d.driver for d in devices):
        nodes = [name for name in readings.names("/dev/accel") if name.startswith("accel")]
        if not nodes:
            problems.append(
                "the NPU has a driver but no device file in /dev/accel: its firmware may be missing (dmesg)"
            )
        elif not any(readings.may_use(f"/dev/accel/{name}") for name in nodes):
            problems.append(f"this account may not use the NPU (/dev/accel/{nodes[0]}): {_RENDER}")
    return problems

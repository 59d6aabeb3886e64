"""GPUs and NPUs on the PCI bus of Linux, whether or not a driver is bound to them."""

from __future__ import annotations

import re
from typing import NamedTuple

from localfoundry.hardware.machine import Vendor
from localfoundry.hardware.readings import Readings, properties, whole

_BUS = "/sys/bus/pci/devices"
_NAMES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids")
_VENDORS: dict[int, Vendor] = {0x10DE: "nvidia", 0x1002: "amd", 0x1022: "amd", 0x8086: "intel", 0x17CB: "qualcomm"}
_WORDS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "qualcomm": "Qualcomm"}
_DISPLAY, _PROCESSING = 0x03, 0x12  # classes; AMD Instinct is of the second and a GPU
_SIGNAL = 0x1180  # class with subclass
_XDNA = frozenset({0x1502, 0x17F0, 0x17F1, 0x17F2})  # AMD's NPUs: their class is that of any signal processor


class PciDevice(NamedTuple):
    """`slot` is its address on the bus; `driver` the one bound to it."""

    slot: str
    vendor: Vendor
    is_npu: bool
    vendor_id: int
    device_id: int
    driver: str | None

    @property
    def folder(self) -> str:
        return f"{_BUS}/{self.slot}"

    @property
    def integrated(self) -> bool:
        """On the bus of the processor itself."""
        return re.match(r"[0-9a-f]{4}:00:", self.slot) is not None


def accelerators(readings: Readings) -> list[PciDevice]:
    """Of vendors whose devices can compute; the display adapters of servers and virtual machines are left out."""
    found = []
    for slot in readings.names(_BUS):
        folder = f"{_BUS}/{slot}"
        kind, vendor, device = (whole(readings.text(f"{folder}/{name}"), 16) for name in ("class", "vendor", "device"))
        if kind is None or device is None or vendor not in _VENDORS:
            continue
        computes = kind >> 16 == _PROCESSING
        is_npu = (computes and _VENDORS[vendor] == "intel") or (kind >> 8 == _SIGNAL and device in _XDNA)
        if kind >> 16 == _DISPLAY or computes or is_npu:
            driver = properties(readings.text(f"{folder}/uevent")).get("DRIVER")
            found.append(PciDevice(slot, _VENDORS[vendor], is_npu, vendor, device, driver))
    return found


def name(readings: Readings, device: PciDevice) -> str:
    """What the device calls itself, or the system's list of names; else vendor and number."""
    told = readings.text(f"{device.folder}/product_name")
    if told:
        return told[:200]
    for path in _NAMES:
        listed = _listed(readings.text(path) or "", device)
        if listed:
            return f"{_WORDS[device.vendor]} {listed}"[:200]
    kind = "NPU" if device.is_npu else "GPU"
    return f"{_WORDS[device.vendor]} {kind} {device.vendor_id:04x}:{device.device_id:04x}"


def _listed(text: str, device: PciDevice) -> str | None:
    """`Navi 31 [Radeon RX 7900 XTX]` of the lines below the vendor's in pci.ids."""
    section = re.search(rf"^{device.vendor_id:04x}  .*\n((?:[\t#].*\n?|\n)*)", text, re.MULTILINE)
    line = re.search(rf"^\t{device.device_id:04x}  (.+)$", section[1], re.MULTILINE) if section else None
    return line[1].strip() if line else None

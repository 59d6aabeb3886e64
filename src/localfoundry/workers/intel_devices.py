"""Why OpenVINO finds no GPU or NPU: what it needs of the system, looked for in the order in which it is missed.

OpenVINO itself says only which devices there are. Linux is looked at; elsewhere the driver is named.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Needs:
    """`nodes`: the kernel's files of such devices; `libraries`: what loads them, each with its package on Debian."""

    what: str
    nodes: str
    kernel: str
    libraries: tuple[tuple[str, str], ...]
    driver: str


_NEEDS = {
    "GPU": Needs(
        "GPU", "dri/renderD*", "i915 or xe",
        (("libOpenCL.so.1", "ocl-icd-libopencl1"), ("libigdrcl.so", "intel-opencl-icd")),
        "Intel's graphics driver",
    ),
    "NPU": Needs(
        "NPU", "accel/accel*", "intel_vpu",
        (("libze_loader.so.1", "libze1"), ("libze_intel_npu.so.1", "intel-level-zero-npu")),
        "Intel's NPU driver",
    ),
}  # fmt: skip
_VENDORS = Path("/etc/OpenCL/vendors")
_INTEL_ICD = "libigdrcl.so"  # not on the loader's path: a file of the vendors names it


def why_missing(device: str, dev: Path = Path("/dev"), loads: Callable[[str], bool] | None = None) -> str:
    """A sentence for `GPU` or `NPU`, with the command that mends it at its end where there is one; no paths."""
    needs = _NEEDS.get(device.partition(".")[0])
    if needs is None:
        return ""
    if not sys.platform.startswith("linux"):
        return f"a {needs.what} of Intel with {needs.driver} is needed ({platform.system()})"
    nodes = sorted(dev.glob(needs.nodes))
    if not nodes:
        return f"the kernel shows no {needs.what} (driver {needs.kernel})"
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return f"this account may not use the {needs.what} ({nodes[0].name}): sudo usermod -aG render $USER"
    for library, package in needs.libraries:
        if not (loads or _loads)(library):
            return f"{library} is not there, a part of {needs.driver}: sudo apt install {package}"
    return f"it is there ({nodes[0].name}), but is none of Intel, or {needs.driver} is too old for it"


def _loads(library: str) -> bool:
    if library == _INTEL_ICD:
        try:
            return any("igdrcl" in file.read_text(errors="replace") for file in _VENDORS.glob("*.icd"))
        except OSError:
            return False
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True

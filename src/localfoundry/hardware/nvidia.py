"""NVIDIA GPUs through NVML, the library of the driver. Each of its errors is told with its mend.

The binding is imported only where there can be such a GPU: it costs 30 ms, and opening the driver more.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from localfoundry.hardware.machine import Accelerator
from localfoundry.hardware.readings import Readings

# Return codes of NVML (nvml.h).
_NOT_SUPPORTED, _NO_PERMISSION, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND = 3, 4, 9, 12
_GPU_IS_LOST, _RESET_REQUIRED, _SYSTEM, _VERSION_MISMATCH = 15, 16, 17, 18
_WORDS = {
    _NO_PERMISSION: "this account may not use the NVIDIA driver: look at the rights of /dev/nvidia*",
    _DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded: try `sudo modprobe nvidia`; after an update of "
    "the kernel, install the driver for it or restart the machine",
    _LIBRARY_NOT_FOUND: "the library of the NVIDIA driver (NVML) is not installed: install the driver; in a container, "
    "start it with the NVIDIA container toolkit",
    _GPU_IS_LOST: "an NVIDIA GPU has fallen off the bus: restart the machine",
    _RESET_REQUIRED: "an NVIDIA GPU has to be reset before it can be used: restart the machine",
    _SYSTEM: "the operating system or a container blocks access to the NVIDIA driver",
    _VERSION_MISMATCH: "the loaded NVIDIA kernel module and the installed library are of different versions: restart "
    "the machine; in a container, update its driver libraries",
}


def read(readings: Readings, nvml: Any | None = None) -> tuple[list[Accelerator], list[str]]:
    """The GPUs that the driver shows, and what it complains of. `nvml` stands in for the binding in tests."""
    nvml = nvml or _binding()
    if nvml is None:
        return [], ["NVIDIA GPUs cannot be read: the package nvidia-ml-py is not installed"]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        return [], [_words(exc) + _loaded_version(readings, exc)]
    try:
        return _devices(nvml)
    except nvml.NVMLError as exc:
        return [], [_words(exc)]
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _binding() -> Any | None:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def _devices(nvml: Any) -> tuple[list[Accelerator], list[str]]:
    found, problems = [], []
    driver = _asked(nvml, nvml.nvmlSystemGetDriverVersion)
    for index in range(min(int(nvml.nvmlDeviceGetCount()), 64)):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = _asked(nvml, nvml.nvmlDeviceGetName, handle)
        except nvml.NVMLError as exc:
            problems.append(f"GPU {index}: {_words(exc)}")
            continue
        memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
        total, free = (int(memory.total), int(memory.free)) if memory is not None else (None, None)
        found.append(Accelerator(
            str(name or "NVIDIA GPU")[:200], "nvidia", "gpu", total, min(free, total) if total and free else free,
            str(driver)[:200] if driver else None, False if total else None,
        ))  # fmt: skip
    return found, problems


def _asked(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where this GPU does not support the question; other errors go on."""
    try:
        return question(*arguments)
    except nvml.NVMLError as exc:
        if getattr(exc, "value", None) == _NOT_SUPPORTED:
            return None
        raise


def _words(exc: Exception) -> str:
    code = getattr(exc, "value", None)
    return _WORDS[code] if isinstance(code, int) and code in _WORDS else f"the NVIDIA driver reports: {exc}"


def _loaded_version(readings: Readings, exc: Exception) -> str:
    """The kernel module's own line, where the versions differ."""
    line = (readings.text("/proc/driver/nvidia/version") or "").split("\n")[0]
    return f" ({line[:200]})" if line and getattr(exc, "value", None) == _VERSION_MISMATCH else ""


def library_is_missing(problem: str) -> bool:
    """Whether this says no more than that there is no NVIDIA driver: no problem where there is no such GPU."""
    return problem == _WORDS[_LIBRARY_NOT_FOUND]

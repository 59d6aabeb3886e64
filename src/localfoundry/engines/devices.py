"""Which engines of this installation can use which hardware.

Asked, not guessed: a native `llama-server` lists the devices it was built for. The bundled engine's wheel computes on
the processor. The answer of a native one is not kept: it takes as long as its drivers take to start.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localfoundry.config import Settings
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.errors import InvalidSetting
from localfoundry.hardware.machine import Accelerator, Machine

_TIMEOUT_S = 10
_LISTED = re.compile(r"^\s*([A-Za-z]+)\d*: (.+?)(?: \(\d+ MiB[^)]*\))?$", re.MULTILINE)
_VENDOR_OF_BACKEND = {"CUDA": "nvidia", "ROCM": "amd", "HIP": "amd", "METAL": "apple", "MTL": "apple", "SYCL": "intel"}


@dataclass(frozen=True, slots=True)
class Reach:
    """What one engine can compute on. `devices` are (backend, name) as the engine says; None: it did not answer."""

    engine: str
    formats: tuple[str, ...]
    devices: tuple[tuple[str, str], ...] | None = ()
    reason: str = ""

    def uses(self, accelerator: Accelerator) -> bool:
        """Whether the engine lists it: by the vendor of the backend, else (Vulkan, OpenCL) by name."""
        return any(
            (_VENDOR_OF_BACKEND.get(backend.upper()) == accelerator.vendor and accelerator.kind == "gpu")
            or name.lower() in accelerator.name.lower()
            or accelerator.name.lower() in name.lower()
            for backend, name in self.devices or ()
        )


def reach(settings: Settings) -> tuple[Reach, ...]:
    """Every engine that runs models here; a native llama-server takes as long as its drivers, at most 10 s."""
    formats = tuple(sorted(LlamaCpp.formats))
    bundled = Reach("llama.cpp (bundled)", formats, reason="the wheel computes on the processor")
    try:
        server = LlamaCpp.native_server(settings)
    except InvalidSetting as exc:
        return (Reach("llama.cpp (native)", formats, None, exc.message),)
    if server is None:
        return (bundled,)
    listed = _listed(server)
    reason = "llama-server --list-devices" if listed is not None else "llama-server --list-devices did not answer"
    return (Reach("llama.cpp (native)", formats, listed, reason),)


def parse(text: str) -> tuple[tuple[str, str], ...]:
    """`  CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23000 MiB free)` after `Available devices:`."""
    _, heading, rest = text.partition("Available devices:")
    return tuple((backend, name) for backend, name in _LISTED.findall(rest)) if heading else ()


def _listed(server: Path) -> tuple[tuple[str, str], ...] | None:
    try:
        told = subprocess.run([server, "--list-devices"], capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(told.stdout + told.stderr) if told.returncode == 0 else None


def with_engines(machine: Machine, reaches: tuple[Reach, ...]) -> Machine:
    """The machine with the engines that can use each accelerator."""

    def named(accelerator: Accelerator) -> Accelerator:
        engines = tuple(one.engine for one in reaches if one.uses(accelerator))
        return msgspec.structs.replace(accelerator, usable_by=engines)

    return msgspec.structs.replace(machine, accelerators=tuple(named(one) for one in machine.accelerators))

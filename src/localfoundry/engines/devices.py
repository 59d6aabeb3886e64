"""Which engines of this installation can use which hardware.

Asked, not guessed: a native `llama-server` lists the devices it was built for. The bundled engine's wheel computes on
the processor. The library of another engine is asked in a process of its own (`workers/reach.py`). No answer is kept:
each takes as long as its drivers take to start.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localfoundry.config import Settings
from localfoundry.engines.base import Engine
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.errors import InvalidSetting
from localfoundry.hardware.machine import Accelerator, Machine

_TIMEOUT_S = 10
_LIBRARIES = ("openvino", "onnx")  # engines that `workers/reach.py` knows
_LISTED = re.compile(r"^\s*([A-Za-z]+)\d*: (.+?)(?: \(\d+ MiB[^)]*\))?$", re.MULTILINE)
_VENDOR_OF_BACKEND = {"CUDA": "nvidia", "ROCM": "amd", "HIP": "amd", "METAL": "apple", "MTL": "apple", "SYCL": "intel"}


@dataclass(frozen=True, slots=True)
class Reach:
    """What one engine can compute on. `devices` are (backend, name) as the engine says; None: it did not answer."""

    engine: str
    formats: tuple[str, ...]
    devices: tuple[tuple[str, str], ...] | None = ()
    reason: str = ""
    missing: str | None = None  # why it is not here, with the command that installs it

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


def of_libraries(engines: Iterable[Engine]) -> tuple[Reach, ...]:
    """The engines whose library is asked; each answers within 10 s or is said not to have. One after the other."""
    return tuple(_of_library(engine) for engine in engines if engine.name in _LIBRARIES)


def _of_library(engine: Engine) -> Reach:
    formats, missing = tuple(sorted(engine.formats)), engine.missing()
    if missing is not None:
        return Reach(engine.name, formats, None, missing=missing)
    argv = [sys.executable, "-m", "localfoundry.workers.reach", engine.name]
    try:
        told = subprocess.run(argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                              timeout=_TIMEOUT_S, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        late = isinstance(exc, subprocess.TimeoutExpired)
        return Reach(engine.name, formats, None, f"its library did not {'answer in 10 s' if late else 'start'}")
    if told.returncode:
        words = told.stderr.strip().splitlines() or [f"it ended with status {told.returncode}"]
        return Reach(engine.name, formats, None, f"its library: {words[-1][:200]}")
    return Reach(engine.name, formats, tuple((str(kind), str(name)) for kind, name in json.loads(told.stdout)))


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

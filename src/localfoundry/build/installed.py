"""Builds of llama.cpp made on this machine: what is here, and which of them can run here now.

    <home>/engines/llama.cpp/<version>-<cpu|cuda|vulkan>/   bin/ the programs   share/ the converter   build.json

A build appears by one rename and is whole from then on; its programs find their libraries beside them, so that the
home may move. It holds instructions of the processor it was made for: on a machine that lacks one of them it is not
used, and says so, because it would end without a word.
"""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from pathlib import Path

import msgspec

from localfoundry.config import Settings

ENGINE = "llama.cpp"
PROGRAMS = ("llama-server", "llama-quantize", "llama-bench", "llama-perplexity", "llama-imatrix")
NAME = re.compile(r"[0-9][0-9.]{0,40}-(cpu|cuda|vulkan|metal)")
# Of the kernel's words those that compilers turn into instructions; the rest (mitigations, virtualization) may differ.
_INSTRUCTIONS = re.compile(
    r"(avx|amx|sse|ssse3|fma|f16c|bmi|abm|popcnt|movbe|gfni|vaes|vpclmul|pclmul|sha_|adx|aes|fsgsbase|rdrnd|rdseed"
    r"|asimd|neon|sve|sme(?!p)|i8mm|bf16|fphp|atomics|crc32|dotprod|pmull|lrcpc|jscvt|fcma|lsx|lasx|[v]$)\w*"
)


class Build(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `build.json` keeps. `instructions`: of the processor that it was made on."""

    name: str
    version: str  # of the package with the sources
    told: str  # what its server says of itself
    source_sha256: str
    gpu: str  # cpu, cuda, vulkan or metal
    machine: str  # x86_64 and the like
    system: str
    instructions: tuple[str, ...]
    processor: str
    compiler: str
    options: tuple[str, ...]  # that cmake was given
    built_at: str
    seconds: float
    size_bytes: int


def root(settings: Settings) -> Path:
    """The folder of all builds."""
    return settings.home / "engines" / ENGINE


def folder(settings: Settings, build: Build) -> Path:
    return root(settings) / build.name


def program(settings: Settings, build: Build, name: str) -> Path:
    """A program of a build, there or not."""
    return folder(settings, build) / "bin" / (f"{name}.exe" if sys.platform == "win32" else name)


def builds(settings: Settings) -> list[Build]:
    """All that are here, the newest version first; what cannot be read is left out. Reads a small file for each."""
    found = []
    with contextlib.suppress(OSError):
        for place in root(settings).iterdir():
            if NAME.fullmatch(place.name):
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    build = msgspec.json.decode((place / "build.json").read_bytes(), type=Build)
                    if build.name == place.name:
                        found.append(build)
    return sorted(found, key=_newest_first)


def _newest_first(build: Build) -> tuple[list[int], bool, str]:
    return [-int(part) for part in build.version.split(".")], build.gpu == "cpu", build.name


def named(settings: Settings, name: str) -> Build | None:
    return next((build for build in builds(settings) if build.name == name), None)


def why_not(settings: Settings, build: Build) -> str | None:
    """Why this build cannot run here; None where it can."""
    here = platform.machine()
    if (build.machine, build.system) != (here, platform.system()):
        return f"it was built for {build.system} on {build.machine}, and this is {platform.system()} on {here}"
    missing = sorted(set(build.instructions) - set(instructions()))
    if missing:
        return f"it was built for {build.processor}; this processor has no {', '.join(missing[:4])}"
    if not program(settings, build, "llama-server").is_file():
        return "its llama-server is gone"
    return None


def usable(settings: Settings) -> Build | None:
    """The newest build that can run here."""
    return next((build for build in builds(settings) if why_not(settings, build) is None), None)


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """What this processor can, in the kernel's words; empty where the system does not list it."""
    with contextlib.suppress(OSError), cpuinfo.open(errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return tuple(sorted({word for word in value.split() if _INSTRUCTIONS.fullmatch(word)}))
    return ()

"""What building from sources needs of this machine: a C++ compiler, cmake, ninja, and the toolkit of a GPU.

cmake and ninja come as wheels into a folder of ours where the machine has none; a compiler must be its own. Ninja and
not make: after a kill it knows which files were finished.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from localfoundry.config import Settings
from localfoundry.errors import MissingTool

GPUS = ("auto", "cuda", "vulkan", "none")
_WHEELS = ("cmake", "ninja")
_COMPILERS = ("c++", "g++", "clang++")
_HINTS = {
    "apt-get": "sudo apt-get install build-essential",
    "dnf": "sudo dnf install gcc-c++ make",
    "yum": "sudo yum install gcc-c++ make",
    "zypper": "sudo zypper install gcc-c++ make",
    "pacman": "sudo pacman -S base-devel",
    "apk": "sudo apk add build-base",
    "xcode-select": "xcode-select --install",
}
_GPU_HINTS = {"cuda": "install the CUDA toolkit (nvcc), or take --gpu none",
              "vulkan": "install the Vulkan SDK (glslc and its headers), or take --gpu none"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Programs to build with. `gpu`: cpu, cuda, vulkan or metal."""

    cmake: Path
    ninja: Path
    compiler: str  # its first line about itself
    gpu: str


def compiler() -> str:
    """The C++ compiler's first line about itself. Raises MissingTool with the distribution's command."""
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
    found = next((path for path in map(shutil.which, wanted) if path), None)
    if found is None and sys.platform != "win32":
        hint = next((words for tool, words in _HINTS.items() if shutil.which(tool)), "install gcc or clang with C++")
        raise MissingTool(f"there is no C++ compiler here: none of {', '.join(wanted)} is on the PATH", hint=hint)
    if found is None:
        return "Visual Studio"  # cmake looks for it, and says what is missing
    told = subprocess.run([found, "--version"], capture_output=True, text=True, errors="replace", check=False)
    return (told.stdout.splitlines() or [Path(found).name])[0][:100]


def gpu_of(wanted: str) -> str:
    """Which GPU to build for: the one whose toolkit is here. Raises MissingTool where a named one lacks it."""
    here = {"cuda": shutil.which("nvcc") is not None, "vulkan": _has_vulkan()}
    if wanted in here and not here[wanted]:
        raise MissingTool(f"the toolkit for {wanted} is not here", hint=_GPU_HINTS[wanted])
    if wanted in here:
        return wanted
    if sys.platform == "darwin" and wanted == "auto":
        return "metal"
    if wanted == "auto":
        return "cuda" if here["cuda"] and shutil.which("nvidia-smi") else "vulkan" if here["vulkan"] else "cpu"
    return "cpu"


def _has_vulkan() -> bool:
    places = [Path("/usr/include"), Path("/usr/local/include")]
    if os.environ.get("VULKAN_SDK"):
        places.append(Path(os.environ["VULKAN_SDK"]) / "include")
    return shutil.which("glslc") is not None and any((p / "vulkan" / "vulkan.h").is_file() for p in places)


def missing_wheels(settings: Settings) -> tuple[str, ...]:
    """Those of cmake and ninja that are neither on this machine nor in our folder."""
    return tuple(name for name in _WHEELS if _program(settings, name) is None)


def wheels_command(settings: Settings, names: tuple[str, ...]) -> list[str]:
    """What puts them into our folder."""
    return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--upgrade",
            "--only-binary", ":all:", "--target", str(_folder(settings)), *names]  # fmt: skip


def toolchain(settings: Settings, gpu: str) -> Toolchain:
    """Everything found. Raises MissingTool."""
    found = {name: _program(settings, name) for name in _WHEELS}
    for name, path in found.items():
        if path is None:
            raise MissingTool(f"{name} is not here and could not be installed", hint=f"pip install {name}")
    return Toolchain(found["cmake"] or Path(), found["ninja"] or Path(), compiler(), gpu)


def _folder(settings: Settings) -> Path:
    return settings.home / "engines" / "tools"


def _program(settings: Settings, name: str) -> Path | None:
    """On the PATH, else in our folder; the wheel of cmake has its program inside the package, at its own place."""
    ours = [_folder(settings) / "bin", _folder(settings) / "cmake" / "data" / "bin"]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, ours)))
    return Path(found) if found else None

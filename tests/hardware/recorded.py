"""Machines as text files, answering the questions of `hardware/readings.py`.

# system Linux x86_64
--- /proc/meminfo                    a file, up to the next line that begins like this
--- /dev/kfd (forbidden)             a device that this account may not use; (device): one that it may
--- space / 1000 500                 bytes of a file system, in all and free
--- $ sysctl -n kern.boottime        what a program prints; (fails): it does not
--- HKLM SYSTEM\\...                 values of a registry key as name=value
--- memory 1000 500                  of systems that tell it by a call; and --- partition MOUNT OPTIONS
--- nvml                             JSON for the stand-in of NVML
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MACHINES = Path(__file__).parent / "machines"


class Recorded:
    """One recorded machine, read in whole."""

    def __init__(self, text: str) -> None:
        first, _, rest = text.partition("\n")
        _, _, self.system, self.architecture = first.split()
        self._files: dict[str, str] = {}
        self._devices: dict[str, bool] = {}
        self._calls: dict[str, str] = {}
        self._partitions: list[tuple[str, str]] = []
        for section in re.split("^--- ", rest, flags=re.MULTILINE)[1:]:
            title, _, content = section.partition("\n")
            self._take(title.strip(), content.strip("\n"))

    def _take(self, title: str, content: str) -> None:
        word, _, rest = title.partition(" ")
        if rest in ("(device)", "(forbidden)"):
            self._devices[word] = rest == "(device)"
        elif word.startswith("/"):
            self._files[title] = content
        elif word == "partition":
            mount, _, options = rest.partition(" ")
            self._partitions.append((mount, options))
        elif not rest.endswith("(fails)"):
            self._calls[title if word in ("$", "HKLM", "nvml") else word] = content or rest
            if word == "space":
                mount, total, free = rest.rsplit(" ", 2)
                self._calls[f"space {mount}"] = f"{total} {free}"

    @classmethod
    def load(cls, name: str) -> Recorded:
        return cls((MACHINES / f"{name}.txt").read_text("utf-8"))

    def text(self, path: str) -> str | None:
        return self._files.get(path)

    def names(self, folder: str) -> list[str]:
        inside = [p.removeprefix(f"{folder}/") for p in (*self._files, *self._devices) if p.startswith(f"{folder}/")]
        return sorted({path.split("/")[0] for path in inside})

    def may_use(self, path: str) -> bool | None:
        return self._devices.get(path)

    def space(self, path: str) -> tuple[int, int] | None:
        return self._pair(f"space {path}")

    def memory(self) -> tuple[int, int] | None:
        return self._pair("memory")

    def partitions(self) -> list[tuple[str, str]]:
        return self._partitions

    def registry(self, key: str) -> dict[str, str]:
        lines = self._calls.get(f"HKLM {key}", "").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def registry_keys(self, key: str) -> list[str]:
        inside = [k.removeprefix(f"HKLM {key}\\") for k in self._calls if k.startswith(f"HKLM {key}\\")]
        return sorted({name.split("\\")[0] for name in inside})

    def output(self, *argv: str, timeout_s: float = 5.0) -> str | None:
        return self._calls.get("$ " + " ".join(argv))

    def _pair(self, name: str) -> tuple[int, int] | None:
        total, _, free = self._calls.get(name, "").partition(" ")
        return (int(total), int(free)) if free else None

    @property
    def nvml(self) -> Any:
        """The stand-in of NVML; of a machine without a recording, one that has no library."""
        return Nvml(json.loads(self._calls.get("nvml", '{"init": 12}')))


class NVMLError(Exception):
    """As that of pynvml: `value` is the return code."""

    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class Nvml:
    """`{"init": CODE}`, or `{"driver": ..., "gpus": [{"name", "total", "free"} or {"error": CODE}]}`."""

    NVMLError = NVMLError

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def nvmlInit(self) -> None:
        if self._told.get("init"):
            raise NVMLError(self._told["init"])

    def nvmlShutdown(self) -> None:
        return None

    def nvmlSystemGetDriverVersion(self) -> str:
        return str(self._told["driver"])

    def nvmlDeviceGetCount(self) -> int:
        return len(self._told["gpus"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        gpu = self._told["gpus"][index]
        if "error" in gpu:
            raise NVMLError(gpu["error"])
        return gpu

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(handle["name"])

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        if "total" not in handle:
            raise NVMLError(3)
        return SimpleNamespace(total=handle["total"], free=handle["free"], used=handle["total"] - handle["free"])

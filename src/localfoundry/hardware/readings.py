"""What a system can be asked: files, folders, small programs. The one door to the outside for this package.

A recorded machine in the tests answers the same questions from a text file. Every answer is bounded in size and time,
and None where there is no answer, whatever the cause: a sensor that cannot be read must not stop the rest.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

_MOST_BYTES = 4 * 2**20
_MOST_NAMES = 4096
_MOST_CPUS = 2**16


class Readings(Protocol):
    """The questions. `system` is Linux, Darwin or Windows as `platform.system` says it."""

    system: str
    architecture: str

    def text(self, path: str) -> str | None:
        """What the file says, without blanks at its ends."""
        ...

    def names(self, folder: str) -> list[str]:
        """What is in the folder, sorted; nothing where it cannot be listed."""
        ...

    def may_use(self, path: str) -> bool | None:
        """Whether this account may read and write the device; None where it is not there."""
        ...

    def space(self, path: str) -> tuple[int, int] | None:
        """Bytes of the file system in all, and free to this account."""
        ...

    def memory(self) -> tuple[int, int] | None:
        """Bytes of memory of the machine, and available, where no file tells it."""
        ...

    def partitions(self) -> list[tuple[str, str]]:
        """Mounted disks and their options, where no file tells it."""
        ...

    def registry(self, key: str) -> dict[str, str]:
        """Values of a key below HKEY_LOCAL_MACHINE, numbers in decimal, bytes in hexadecimal; only on Windows."""
        ...

    def registry_keys(self, key: str) -> list[str]:
        """Names of the keys below it."""
        ...

    def output(self, *argv: str, timeout_s: float = 5.0) -> str | None:
        """Standard output of a program of the system; None where it is missing, fails or takes too long."""
        ...


class ThisSystem:
    """The machine that this process runs on."""

    system = platform.system()
    architecture = platform.machine().lower()

    def text(self, path: str) -> str | None:
        try:
            with Path(path).open("rb") as stream:
                return stream.read(_MOST_BYTES).decode("utf-8", "replace").strip("\0 \t\n")
        except (OSError, ValueError):
            return None

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(folder))[:_MOST_NAMES]  # noqa: PTH208 (one call; iterdir makes objects)
        except (OSError, ValueError):
            return []

    def may_use(self, path: str) -> bool | None:
        return os.access(path, os.R_OK | os.W_OK) if Path(path).exists() else None

    def space(self, path: str) -> tuple[int, int] | None:
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            return None
        return usage.total, min(usage.free, usage.total)

    def memory(self) -> tuple[int, int] | None:
        import psutil  # costs milliseconds that Linux does not need

        try:
            memory = psutil.virtual_memory()
        except (OSError, RuntimeError, psutil.Error):
            return None
        return memory.total, min(memory.available, memory.total)

    def partitions(self) -> list[tuple[str, str]]:
        import psutil

        try:
            return [(part.mountpoint, part.opts) for part in psutil.disk_partitions(all=False)]
        except (OSError, RuntimeError, psutil.Error):
            return []

    def registry(self, key: str) -> dict[str, str]:
        from localfoundry.hardware import registry

        return registry.values(key)

    def registry_keys(self, key: str) -> list[str]:
        from localfoundry.hardware import registry

        return registry.keys(key)

    def output(self, *argv: str, timeout_s: float = 5.0) -> str | None:
        try:
            done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout[:_MOST_BYTES].decode("utf-8", "replace").strip() if done.returncode == 0 else None


def whole(text: str | None, base: int = 10, most: int = 2**60) -> int | None:
    """The number that a text is, within 0 and `most`; else None. ` 42`, `0x10de` with base 16; not `4 2`, `-1`."""
    try:
        value = int((text or "").strip(), base)
    except ValueError:
        return None
    return value if 0 <= value <= most else None


def cpu_list(text: str | None) -> frozenset[int]:
    """`0-3,8` as numbers; nothing where a part of it is none. At most 65,536 processors."""
    found: set[int] = set()
    for part in (text or "").strip().split(",") if text and text.strip() else ():
        first, dash, last = part.partition("-")
        low = whole(first, most=_MOST_CPUS - 1)
        high = whole(last, most=_MOST_CPUS - 1) if dash else low
        if low is None or high is None or high < low:
            return frozenset()
        found.update(range(low, high + 1))
    return frozenset(found)


def properties(text: str | None, separator: str = "=") -> dict[str, str]:
    """Lines of `key=value` (or another separator) as a dictionary; other lines are passed over."""
    pairs = (line.partition(separator) for line in (text or "").splitlines())
    return {key.strip(): value.strip() for key, found, value in pairs if found and key.strip()}

"""The Python that compilers run in: found, asked for its versions, and what it lacks said with the command to type.

It is this one, or the one that the setting `compilePython` names: the packages are large, and their versions exclude
those of others, so some people keep them apart. Nothing is imported from it; it runs children.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from localfoundry.config import Settings
from localfoundry.errors import BuildFailed, MissingExtra

CHILDREN = Path(__file__).parent.parent / "workers"
INSTALL = "pip install 'localfoundry[compile]'"
_ANSWER_S = 120.0
_LONGEST_WORDS = 400


class Toolchain(msgspec.Struct, frozen=True):
    """What is there. `architectures`: those that the ONNX builder has code for."""

    python: str  # its version
    packages: dict[str, str]
    architectures: tuple[str, ...]
    executable: str = ""

    def require(self, *packages: str) -> None:
        """Raise MissingExtra where one of the packages is not installed."""
        missing = [name for name in packages if name not in self.packages]
        if missing:
            where = "" if self.executable == sys.executable else f" in {self.executable}"
            raise MissingExtra(f"compiling needs {', '.join(missing)}, not installed{where}", hint=INSTALL)

    def versions(self, *packages: str) -> dict[str, str]:
        return {name: self.packages[name] for name in packages if name in self.packages}

    def script(self, name: str, *arguments: str) -> tuple[str, ...]:
        """The command line of one of our own children."""
        return (*self._child("script"), str(CHILDREN / f"{name}.py"), *arguments)

    def module(self, name: str, *arguments: str) -> tuple[str, ...]:
        """The command line of somebody else's module."""
        return (*self._child("module"), name, *arguments)

    def program(self, path: Path, *arguments: str) -> tuple[str, ...]:
        """The command line of somebody else's script, which finds what lies beside it."""
        return (*self._child("package"), str(path), *arguments)

    def _child(self, kind: str) -> tuple[str, ...]:
        return (self.executable, "-P", str(CHILDREN / "compile_child.py"), kind)


def find(settings: Settings) -> Toolchain:
    """The toolchain, whatever it has. Blocking, a tenth of a second. Raises BuildFailed where nothing answers."""
    executable = str(settings.compile_python or sys.executable)
    command = [executable, "-P", str(CHILDREN / "compile_tools.py")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False,
            timeout=_ANSWER_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else f"no answer within {_ANSWER_S:.0f} s"
        raise BuildFailed(f"cannot run {executable}: {reason}", hint="foundry config list compilePython") from exc
    try:
        return msgspec.structs.replace(msgspec.json.decode(done.stdout, type=Toolchain), executable=executable)
    except msgspec.MsgspecError as exc:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1][:_LONGEST_WORDS]
        raise BuildFailed(
            f"{executable} does not tell what it has for compiling; it says: {said}",
            hint="set compilePython to a Python 3.11 or newer: foundry config set compilePython PATH",
        ) from exc

"""llama.cpp's own programs beside the server: where they are, and running one in a process that ends with ours.

They read files from strangers, so that they run as a worker does: below a limit on their memory, without core dumps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from localfoundry.build import installed
from localfoundry.config import Settings
from localfoundry.errors import BuildCancelled, BuildFailed
from localfoundry.store.progress import Progress
from localfoundry.wording import without_paths

_POLL_S = 0.1
_KEPT_LINES = 400  # the first ones say what was built when, the last ones what went wrong
_SHARE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
_COMPLAINT = re.compile(r"error|fail|invalid|unable|cannot|unsupported|bad_alloc|garbage", re.IGNORECASE)


def find(name: str, settings: Settings) -> Path | None:
    """The program of that name: beside the server that the settings name, of the newest build, else on the PATH."""
    beside = settings.llama_server
    build = installed.named(settings, beside) or installed.usable(settings)
    if "/" in beside or "\\" in beside:
        found = shutil.which(name, path=str(Path(beside).parent))
        if found:
            return Path(found)
    if build is not None and installed.program(settings, build, name).is_file():
        return installed.program(settings, build, name)
    found = shutil.which(name)
    return Path(found) if found else None


def build_of(told: str) -> str:
    """`0.6.0-dev (build 11434, commit unknown)` of what a program wrote; `unknown` where it does not say."""
    found = re.search(r"^version: (.+)$", told, re.MULTILINE)
    return found[1].strip()[:80] if found else "unknown"


def stop_if(cancelled: Callable[[], bool], name: str) -> None:
    """Raise BuildCancelled where somebody wants that."""
    if cancelled():
        raise BuildCancelled(f"making {name} was cancelled")


def run(
    program: Path, arguments: Sequence[str], *, memory_bytes: int, step: str, name: str, progress: Progress,
    cancelled: Callable[[], bool], folder: Path | None = None, size_bytes: int | None = None,
) -> str:  # fmt: skip
    """Run it to its end and return what it wrote, at most a few hundred lines. Blocking.

    Lines that begin with `[12/ 272]` are progress through `size_bytes`. Raises BuildFailed with the program's own
    words, BuildCancelled.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "localfoundry.workers.native", str(program), *arguments], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=folder,
        env=os.environ | {"FOUNDRY_WORKER_DATA_LIMIT": str(memory_bytes)},
    )  # fmt: skip
    assert process.stdout is not None
    told = _Told(process.stdout)
    progress.start(step, name, size_bytes)
    try:
        while told.is_alive():
            told.join(_POLL_S)
            stop_if(cancelled, name)
            if size_bytes:
                progress.position(int(told.share * size_bytes))
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        told.join()  # ends with the process, and nobody else reads its words
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
    if status != 0:
        raise BuildFailed(
            f"{program.name} ended with {_ended(status)} at {name}: {_complaint(told.text)}",
            hint="foundry engine list shows which build that is",
        )
    return told.text


class _Told(threading.Thread):
    """Reads what a program writes, as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self.share = 0.0
        self.start()

    def run(self) -> None:
        for line in self._stream:
            found = _SHARE.match(line)
            if found:
                self.share = min(int(found[1]) / max(int(found[2]), 1), 1.0)
            if len(self._first) < _KEPT_LINES:
                self._first.append(line[:400].rstrip("\n"))
            else:
                self._last.append(line[:400].rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join([*self._first, *self._last])


def _ended(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _complaint(told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip(" =\t")]
    said = [line for line in lines if _COMPLAINT.search(line)][:2] or lines[-2:]
    return without_paths("; ".join(said))[:400] or "it said nothing"

"""A compiler as a child process: started, watched, its words kept in a log, its end explained.

The child ends with this process, however that ends: it reads its standard input, and stops where that is closed. Its
memory is looked at twice a second, so that a build's appetite is known, and a kill for want of memory can be told from
other ends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from localfoundry.errors import BuildFailed
from localfoundry.units import format_bytes

_LOOK_S = 0.5
_KILL_S = 5.0
_LONGEST_WORDS = 400
_KILLED = {-9, 137}  # SIGKILL, as this system and as a shell tells it
_NO_MEMORY = re.compile(r"MemoryError|bad_alloc|[Cc]annot allocate memory|can't allocate memory|not enough memory")
_ERROR = re.compile(r"^[\w.]*(Error|Exception|error|ERROR)\b.*")

# Compilers are kept from the network: what they read was fetched and verified before.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_DIR": os.devnull,  # the ONNX builder writes the commit of whatever checkout its Python lies in into the graph
}
_NOT_PASSED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a child took."""

    seconds: float
    peak_bytes: int  # of its resident memory and that of its own children, looked at twice a second


def run(
    command: Sequence[str], log: Path, what: str, line: Callable[[str], None], *, private: Path,
    environment: Mapping[str, str] | None = None,
) -> Ended:  # fmt: skip
    """Run it to its end. Blocking. Each line it writes goes to `log` and to `line`; `private`: its caches and files.

    Raises BuildFailed with its own words and the log's name. `line` may raise to end the child.
    """
    surroundings = {k: v for k, v in os.environ.items() if k not in _NOT_PASSED}
    surroundings |= _OFFLINE | {"HF_HOME": str(private / "hf"), "TMPDIR": str(private)} | dict(environment or {})
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("a", encoding="utf-8", errors="replace") as written:
        written.write(f"\n=== {what}: {' '.join(command)}\n")
        written.flush()
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                encoding="utf-8", errors="replace", env=surroundings, cwd=private,
                start_new_session=True,  # Ctrl-C is for us: we end it
            )  # fmt: skip
        except OSError as exc:
            raise BuildFailed(f"cannot start {command[0]}: {exc.strerror}", hint="foundry model compile -h") from exc
        watch = _Watch(child.pid)
        try:
            last = _read(child, written, line, watch)
            status = child.wait()
        finally:
            _end(child)
            watch.stop()
            took = time.monotonic() - began
            written.write(f"=== {what}: {took:.1f} s, {format_bytes(watch.peak_bytes)} of memory at its peak\n")
    if status != 0:
        raise _failed(what, status, last, watch.peak_bytes, log)
    return Ended(took, watch.peak_bytes)


def _read(child: subprocess.Popen[str], written: IO[str], line: Callable[[str], None], watch: _Watch) -> list[str]:
    """Its words as they come; returns the last of them."""
    assert child.stdout is not None
    last: list[str] = []
    for text in child.stdout:
        written.write(text)
        last = [*last[-40:], text.rstrip("\n")]
        line(last[-1])
    return last


def _end(child: subprocess.Popen[str]) -> None:
    """Whatever happened, nothing of it goes on."""
    assert child.stdin is not None and child.stdout is not None
    if child.poll() is None:
        _signal(child, getattr(signal, "SIGTERM", 15))
        try:
            child.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            _signal(child, getattr(signal, "SIGKILL", 9))
            child.wait()
    child.stdin.close()
    child.stdout.close()


def _signal(child: subprocess.Popen[str], number: int) -> None:
    """To it and its own children, which have its session."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, number)
        else:
            child.kill()
    except ProcessLookupError:
        return


def _failed(what: str, status: int, last: list[str], peak_bytes: int, log: Path) -> BuildFailed:
    text = "\n".join(last)
    used = f" it had {format_bytes(peak_bytes)} by then"
    if status in _KILLED or _NO_MEMORY.search(text):
        return BuildFailed(
            f"{what} was ended for want of memory, as far as can be told (status {status});{used}",
            hint="foundry service stop frees what loaded models hold; the same command goes on where it was",
        )
    reason = next((t for t in reversed(last) if _ERROR.match(t)), last[-1] if last else "it said nothing")
    return BuildFailed(f"{what} failed with status {status}: {reason[:_LONGEST_WORDS]}", hint=f"its log: {log}")


class _Watch:
    """The peak of a process's memory, looked at in a thread."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(pid,), name="compile-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _look(self, pid: int) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, _resident(pid))
            if self._done.wait(_LOOK_S):
                return


def _resident(pid: int) -> int:
    total = 0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except (psutil.Error, OSError):
        pass
    return total


def discard(folder: Path) -> None:
    """Remove a child's own files, links and all; what cannot be removed is left to `cache clean`."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)

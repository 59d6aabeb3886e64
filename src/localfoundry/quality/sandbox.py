"""Runs code that a model wrote against the tests of an item, in a process of its own that can do little harm.

    everywhere    wall time, bounded output, an empty environment, no site packages, a temporary folder that is removed,
                  and an audit hook: no network, no processes, no files elsewhere (`sandboxed`)
    Linux, macOS  limits on processor time, size of files, open files, processes; on Linux on memory as well
    Linux         where user namespaces are allowed: no network at all, and a process namespace that dies as one
    as root       the account `nobody`, where it can read the interpreter: limits on processes do not hold for root

This is made for mistakes and for nonsense: endless loops, floods of output, a stray `rmtree`. It is no prison for a
program that was written to escape; a suite from a stranger is read before it is run, as any program would be.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

WALL_S = 10.0
MAX_OUTPUT_BYTES = 65_536
LIMITS = {
    "RLIMIT_CPU": 5,  # seconds
    "RLIMIT_AS": 512 * 2**20,
    "RLIMIT_FSIZE": 2**20,
    "RLIMIT_NOFILE": 32,
    "RLIMIT_CORE": 0,
    "RLIMIT_NPROC": 1,  # of the account: neither another process nor a thread
}
_FENCED = re.compile(r"```(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_UNSHARE = ("unshare", "--user", "--net", "--ipc", "--pid", "--fork", "--kill-child")


def code_of(text: str) -> str:
    """The Python in an answer: its fenced blocks, one after another, or all of it where there is none."""
    blocks = _FENCED.findall(text)
    return "\n".join(blocks) if blocks else text


def run(code: str, tests: str, wall_s: float = WALL_S) -> str | None:
    """None where the tests pass, else the reason. Blocking, at most about `wall_s` seconds."""
    passed = secrets.token_hex(16)
    job = json.dumps({"code": code, "tests": tests, "passed": passed, "limits": LIMITS}).encode()
    with tempfile.TemporaryDirectory(prefix="foundry-eval-", ignore_cleanup_errors=True) as folder:
        account = _account()
        if account is not None:
            os.chown(folder, *account)
        process = _start(folder, account)
        output, reason = _hear(process, job, wall_s)
    words = output.decode("utf-8", "replace").strip()
    last = words.rpartition("\n")[2]
    if reason is None and last != passed:
        ended = f"the process ended with status {process.returncode}"
        reason = (last if process.returncode == 1 else "") or ended
    return reason[:500] if reason else None


def isolation() -> str:
    """What is in force on this machine, in words."""
    limits = "limits of the system" if sys.platform != "win32" else "a deadline"
    network = "no network (a namespace of its own)" if _prefix() else "network refused inside Python only"
    account = "as nobody" if _account() else "as this account"
    if sys.platform != "win32" and os.geteuid() == 0 and not _account():
        account = "as root, for whom the limit on processes does not hold"
    return f"{limits}, {network}, {account}"


def _start(folder: str, account: tuple[int, int] | None) -> subprocess.Popen[bytes]:
    given: dict[str, Any] = {}
    if account is not None:
        given = {"user": account[0], "group": account[1], "extra_groups": []}
    # Python needs the first to start on Windows; nothing else of the environment is any of the code's business.
    environment = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ} | {"LANG": "C.UTF-8"}
    return subprocess.Popen(
        [*_prefix(), _interpreter(), "-I", "-S", "-B", "-c", _child()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
        **given,
    )


def _hear(process: subprocess.Popen[bytes], job: bytes, wall_s: float) -> tuple[bytes, str | None]:
    """Hand over the job and read what comes, until the end, the deadline or the limit of output."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _end(process)

    deadline = threading.Timer(wall_s, expire)
    deadline.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(OSError):  # it ended before it had read all
            process.stdin.write(job)
            process.stdin.close()
        output = _read(process.stdout)
    finally:
        deadline.cancel()
        _end(process)  # whatever it left behind goes with it
        process.wait()
        process.stdout.close()
    if expired.is_set():
        return output, f"not done after {wall_s:g} s"
    if len(output) > MAX_OUTPUT_BYTES:
        return output, f"prints more than {MAX_OUTPUT_BYTES:,} bytes"
    return output, None


def _read(stream: IO[bytes]) -> bytes:
    found = b""
    while len(found) <= MAX_OUTPUT_BYTES and (more := os.read(stream.fileno(), MAX_OUTPUT_BYTES)):
        found += more
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@functools.cache
def _child() -> str:
    return (resources.files("localfoundry.quality") / "sandboxed.py").read_text(encoding="utf-8")


@functools.cache
def _interpreter() -> str:
    """The interpreter behind a virtual environment: the tests need no packages, and it is where others may read."""
    return str(Path(getattr(sys, "_base_executable", "") or sys.executable).resolve())


@functools.cache
def _account() -> tuple[int, int] | None:
    """User and group to run as; None: this account's own."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return None
    account = (nobody.pw_uid, nobody.pw_gid)
    readable = _works([_interpreter(), "-I", "-S", "-c", "import json, socket, traceback"], account)
    return account if readable else None


@functools.cache
def _prefix() -> Sequence[str]:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return ()
    return _UNSHARE if _works([*_UNSHARE, "true"], _account()) else ()


def _works(command: Sequence[str], account: tuple[int, int] | None) -> bool:
    given: dict[str, Any] = {"user": account[0], "group": account[1], "extra_groups": []} if account else {}
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, cwd="/", **given)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0

"""The child of `sandbox`: runs an answer's code and the tests of its item under limits, and says how it went.

It is started from its own source text with nothing but the standard library, so it stands alone. First come the limits
of the system, then an audit hook, which cannot be taken away again: no sockets but a process's own pair, no processes,
no foreign libraries, files only in the temporary folder and reading only there and in the standard library. What the
hook refuses it refuses to Python code; it is no wall against a program that sets out to break the interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import types
from typing import Any

_NEVER = (
    "subprocess.", "ctypes.", "os.system", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.kill",
    "os.startfile", "pty.", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostby",
    "winreg.", "_winapi.", "signal.pthread_kill", "syslog.", "fcntl.", "msvcrt.", "os.setxattr",
)  # fmt: skip
_WRITES = {
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
    "os.utime", "os.lockf", "shutil.rmtree", "shutil.move", "shutil.copyfile",
}  # fmt: skip
_READS = {"os.listdir", "os.scandir", "os.chdir", "os.walk"}
_FOREIGN = ("_ctypes", "ctypes", "_testcapi")


def main() -> int:
    job = json.loads(sys.stdin.buffer.read())
    _limit(job["limits"])
    _guard(os.path.realpath("."))
    module = sys.modules["answer"] = types.ModuleType("answer")  # dataclasses look their module up there
    namespace = vars(module)
    try:
        exec(compile(job["code"], "answer", "exec"), namespace)  # noqa: S102 - what this process is there for
        exec(compile(job["tests"], "tests", "exec"), namespace)  # noqa: S102
    except BaseException as exc:  # noqa: BLE001 - whatever the code raises is its result
        _tell(_reason(exc, job["tests"]))
        return 1
    _tell(job["passed"])
    return 0


def _reason(exc: BaseException, tests: str) -> str:
    """The kind and words of the error, and the line of the tests where it came out."""
    lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == "tests"]
    words = f"{type(exc).__name__}: {exc}"[:300].rstrip(": ")
    if not lines or lines[-1] is None:
        return words
    return f"{words} at {tests.splitlines()[lines[-1] - 1].strip()[:120]!r}"


def _tell(text: str) -> None:
    """Past `sys.stdout`, which the code may have replaced."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(1, f"\n{text}\n".encode("utf-8", "replace"))


def _limit(limits: dict[str, int]) -> None:
    """macOS ignores the memory's, Windows has none of them; the parent's deadline holds everywhere."""
    if sys.platform == "win32":
        return
    import resource

    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError, AttributeError):  # a lower one is in force
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _refuse(*_: object) -> None:
    raise PermissionError("starting a process is not allowed here")


def _guard(folder: str) -> None:
    import socket  # before the hook: it reads files

    # It starts processes without an audit event; modules that import it must still load.
    started = types.ModuleType("_posixsubprocess")
    vars(started)["fork_exec"] = _refuse
    sys.modules["_posixsubprocess"] = started

    # asyncio talks to itself through a pair of these; connecting one anywhere is refused.
    own = getattr(socket, "AF_UNIX", None)
    library = os.path.realpath(os.path.dirname(os.__file__))  # noqa: PTH120 - pathlib would audit as well
    realpath, commonpath = os.path.realpath, os.path.commonpath

    def within(path: Any, *roots: str) -> bool:
        if isinstance(path, int) or path is None:
            return True  # a descriptor that is open already
        real = realpath(os.fsdecode(path))
        return any(commonpath((real, root)) == root for root in roots)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & 3 or flags & os.O_CREAT
            allowed = within(path, folder) if writes else within(path, folder, library)
        elif event == "socket.__new__":
            allowed = args[1] == own
        elif event == "import":
            if args[0] in _FOREIGN:  # in the form that modules expect which can do without it
                raise ImportError(f"{args[0]} is not allowed here")
            allowed = True
        elif event in _WRITES:
            allowed = all(within(path, folder) for path in args[:2] if isinstance(path, str | bytes))
        elif event in _READS:
            allowed = within(args[0] if args else ".", folder, library)
        else:
            allowed = not event.startswith(_NEVER)
        if not allowed:
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(hook)


if __name__ == "__main__":
    sys.exit(main())

"""A worker never outlives the service that started it, not even when that one is killed with SIGKILL.

The service holds the other end of the worker's standard input and never writes to it: end of file means that it is
gone. That works on every system. On Linux the kernel is asked as well, because it acts even while the engine's own
code keeps the interpreter busy, for instance in a long load.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> bool:
    """Ask the kernel to end this process with its parent, `exec` or not. False where there is no such promise."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went away before the request was made
        os._exit(1)
    return True


def exit_when_stdin_closes(before: Callable[[], None] | None = None) -> None:
    """End this process, without any clean-up but `before`, when the service closes the pipe or dies."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        if before is not None:
            before()
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()

"""Kills a piece of work at each of its steps: a child for each step, SIGKILL before the n-th change to the disk.

Steps are found by Python's audit events (files opened for writing, renames, links, removals), so that no list of them
has to be kept up. Runs in a process without threads, because it forks: `run` starts one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_TESTS = Path(__file__).parent


def run(module: str, folder: Path, timeout_s: float = 90) -> int:
    """Call `make(folder)`, `work(folder)` killed at each step, and `check(folder)`; then run it again and `check_done`.

    The four are functions of the module named. Each step has a folder of its own. Returns the number of steps.
    """
    done = subprocess.run(
        [sys.executable, __file__, module, str(folder)], capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(json.loads(done.stdout.splitlines()[-1]))


def _child(call: object, folder: Path, kill_at: int | None) -> int:
    """How a forked child ended: its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if kill_at is not None:
                _arm(kill_at)
            call(folder)  # type: ignore[operator]
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _arm(kill_at: int) -> None:
    left = kill_at

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if event in _EVENTS or writes:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(name: str, base: Path) -> int:
    module = importlib.import_module(name)
    step = 0
    while True:
        step += 1
        folder = base / str(step)
        folder.mkdir()
        module.make(folder)
        ended = _child(module.work, folder, step)
        module.check(folder)
        if ended not in (0, -signal.SIGKILL):
            print(f"step {step}: ended with {ended}", file=sys.stderr)
            return 1
        if _child(module.work, folder, None) != 0:
            print(f"step {step}: the rerun failed", file=sys.stderr)
            return 1
        module.check(folder)
        module.check_done(folder)
        if ended == 0:
            print(step)
            return 0


if __name__ == "__main__":
    sys.path.insert(0, str(_TESTS))
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))

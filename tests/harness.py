"""What tests drive the product with: the real command, and deadlines instead of sleeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

# Where two tests run at a time, llama.cpp computes with one thread: more of them wait for each other by spinning, and
# lose whole slices of the scheduler to the other test. It was a sixth of the speed for five times the processor time.
BESIDE_OTHERS = {"OMP_THREAD_LIMIT": "1"} if "PYTEST_XDIST_WORKER" in os.environ else {}


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str
    elapsed_s: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Foundry:
    """The real command in a child process. `env` is added to the test's own environment."""

    executable = str(Path(sys.executable).with_name("foundry"))

    def __call__(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60, env: dict[str, str] | None = None
    ) -> Result:
        started = time.monotonic()
        done = subprocess.run(
            [self.executable, *arguments],
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=os.environ | (env or {}),
        )
        return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def ok(self, *arguments: str, **options: Any) -> Result:
        """As a call, for commands that must succeed."""
        result = self(*arguments, **options)
        assert result.code == 0, f"foundry {' '.join(arguments)}: {result.code}\n{result.out}\n{result.err}"
        return result


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of `condition`, or a failure that says what did not happen."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what}"
        time.sleep(0.02)


def executable(path: Path, script: str = "exit 0") -> Path:
    """A program that a test plays: a shell script at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def native_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = "exit 0") -> Path:
    """A `llama-server` that comes first on the PATH."""
    server = executable(folder / "bin" / "llama-server", script)
    monkeypatch.setenv("PATH", f"{server.parent}{os.pathsep}{os.environ['PATH']}")
    return server


def private_services() -> list[int]:
    """Of commands that this test ran and that had a service of their own: it should be gone with them."""
    found = [(p.pid, p.info["environ"] or {}) for p in psutil.process_iter(["environ"])]
    mine = [(pid, its) for pid, its in found if its.get("HOME") == os.environ["HOME"]]
    return [pid for pid, its in mine if "foundry-bench-" in its.get("FOUNDRY_HOME", "")]


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes of a service."""
    return psutil.Process(pid).children(recursive=True)

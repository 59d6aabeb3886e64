"""A terminal that tests type into: the real command on a pseudo-terminal, read with deadlines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType

from harness import Foundry

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])")
# A real terminal answers where its cursor is; this one has none, and says so.
_ENVIRONMENT = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}

# The first process of a session gets the terminal that it opens as its own; Ctrl-C then reaches it as a signal.
# A terminal gives its programs Ctrl-C; tests that run in the background of a shell have it ignored from there on down.
_TAKE_THE_TERMINAL = (
    "import os, signal, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """`foundry` with a terminal at all three ends. Use as a context manager: what still runs at the end is killed."""

    def __init__(self, *arguments: str, columns: int = 100, env: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_THE_TERMINAL, Foundry.executable, *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env=os.environ | _ENVIRONMENT | (env or {}),
        )  # fmt: skip
        os.close(slave)
        self.raw = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._master)

    @property
    def text(self) -> str:
        """Everything that was shown, without what only moves the cursor or colours."""
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def enter(self, line: str, prompt: str = r"^>") -> None:
        """Wait for the prompt, type a line and press Enter. What is typed before the prompt may be lost."""
        self.expect(prompt)
        self.type(line + "\r")

    def expect(self, pattern: str, timeout_s: float = 20) -> re.Match[str]:
        """Wait until `pattern` is shown after what was expected before."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = re.compile(pattern, re.MULTILINE).search(self.text, self._seen)
            if found:
                self._seen = found.end()
                return found
            assert time.monotonic() < deadline, f"after {timeout_s} s no {pattern!r} in\n{self.text[self._seen :]}"
            assert self._read() or self.process.poll() is None, f"ended without {pattern!r}:\n{self.text}"

    def ended(self, timeout_s: float = 20) -> int:
        """Wait for the end and return the exit status."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running after {timeout_s} s:\n{self.text}"
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def interrupted(self, timeout_s: float = 20) -> int:
        """Press Ctrl-C until it ends, as a person would, and return the exit status.

        Python loses one that comes in the moment between printing a question and waiting for its answer.
        """
        deadline = time.monotonic() + timeout_s
        pressed = 0.0
        while self.process.poll() is None and time.monotonic() < deadline:
            if time.monotonic() - pressed > 2:
                self.type("\x03")
                pressed = time.monotonic()
            self._read()
        return self.ended(0)

    def _read(self) -> bool:
        """Take what is there, waiting a moment for it."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return False
        with contextlib.suppress(OSError):  # the other end is closed
            part = os.read(self._master, 65536).decode(errors="replace")
            self.raw += part
            return bool(part)
        return False

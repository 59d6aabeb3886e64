"""Single keys of a terminal, or lines of a pipe, one by one.

The terminal is changed once for as long as keys are wanted and not for each key, as `click.getchar` does: what is typed
between two keys would be thrown away, and a fast rater's votes with it. Ctrl-C stays an interrupt.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator

from localfoundry.cli import output

_OTHER_KEYS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")  # arrows, function keys, Alt with a key


@contextlib.contextmanager
def keys() -> Iterator[Callable[[], str]]:
    """A function that waits for one key, in lower case, or for a line of a pipe; at the end of input it gives `q`."""
    if not output.interactive():
        yield _line
    elif sys.platform == "win32":
        yield _windows_key
    else:
        with _unbuffered() as read:
            yield read


def _line() -> str:
    line = sys.stdin.readline()
    return line.strip().lower() if line else "q"


def _windows_key() -> str:
    import click

    return click.getchar().lower()  # keys wait in the console's own buffer there


@contextlib.contextmanager
def _unbuffered() -> Iterator[Callable[[], str]]:
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    waiting: deque[str] = deque()

    def read() -> str:
        while not waiting:
            data = os.read(terminal, 64).decode(errors="replace")
            if not data or data == "\x04":
                return "q"
            waiting.extend(_OTHER_KEYS.sub("", data))
        return waiting.popleft().lower()

    try:
        tty.setcbreak(terminal, termios.TCSADRAIN)
        yield read
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)

"""A pull on the terminal: a bar with percent, rate and time remaining; one line per tenth where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from localfoundry.cli import output
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_LINE_EVERY_S = 2.0


class PullProgress:
    """Implements the store's `Progress`. Use as a context manager, so that the bar is taken down on an error."""

    def __init__(self) -> None:
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task: TaskID | None = None
        self._step = ""
        self._name = ""
        self._total: int | None = None
        self._started = 0.0
        self._first: int | None = None
        self._tenth = 0
        self._told = 0.0

    def __enter__(self) -> PullProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, step: str, name: str, total: int | None) -> None:
        self._step, self._name, self._total = step, name, total
        self._started, self._first, self._tenth = time.monotonic(), None, 0
        self._told = self._started
        if self._bar is not None:
            self._task = self._bar.add_task(f"{step} {name}", total=total)

    def position(self, done: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)
            return
        if self._first is None:
            self._first = done
        whole = self._total is not None and done >= self._total
        if not self._total or done * 10 // self._total <= self._tenth or not (whole or self._due()):
            return
        self._tenth = done * 10 // self._total
        elapsed = max(time.monotonic() - self._started, 1e-6)
        rate = (done - self._first) / elapsed
        left = f", {format_duration((self._total - done) / rate)} left" if rate > 0 and done < self._total else ""
        speed = f" at {format_bytes(int(rate))}/s" if rate > 0 else ""
        output.note(f"{self._step} {self._name}: {done * 100 // self._total}%{speed}{left}")

    def _due(self) -> bool:
        """At most a line every two seconds: a log is read by people too."""
        now = time.monotonic()
        if now - self._told < _LINE_EVERY_S:
            return False
        self._told = now
        return True

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            output.note(text)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

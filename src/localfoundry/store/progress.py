"""How a pull says what it does while it does it.

The callbacks are few and absolute: `position` carries the bytes that are there, not a difference, because a download
may resume in the middle or start over. They are called from the event loop and must not block.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a caller implements to show a pull: a bar, a line of a stream, or nothing."""

    def start(self, step: str, name: str, total: int | None) -> None:
        """A step on one file begins: `Downloading`, `Copying`, `Unpacking`, `Checking`; `total` in bytes, if known."""

    def position(self, done: int) -> None:
        """So many bytes of the current step are done. May go back, where a server made us start over."""

    def note(self, text: str) -> None:
        """Something a person should know: waiting for another process, trying again, what was chosen."""


class Silent:
    """Progress that nobody watches."""

    def start(self, step: str, name: str, total: int | None) -> None:
        pass

    def position(self, done: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Tally:
    """Progress of a whole pull as one percentage, which never goes back: for `Total 76.268% Downloading x` lines.

    `total` is the plan's bytes to fetch; None where unknown, and then the percentage is that of the current file.
    Unpacking and checking do not count: they are seconds where the download is minutes.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.name = ""
        self.notes: list[str] = []
        self._fetched: dict[str, int] = {}  # by file, since a step may begin twice
        self._current_total: int | None = None
        self._best = 0.0
        self._counts = False

    def start(self, step: str, name: str, total: int | None) -> None:
        self._current_total = total
        self._counts = step in ("Downloading", "Copying")
        self.name = name

    def position(self, done: int) -> None:
        if self._counts:
            self._fetched[self.name] = done

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def percent(self) -> float:
        """0 to 100, in percent of the bytes to fetch."""
        if self.total:
            share = sum(self._fetched.values()) / self.total
        else:
            share = self._fetched.get(self.name, 0) / self._current_total if self._current_total else 0.0
        self._best = max(self._best, min(100.0, 100 * share))
        return self._best

"""Text out of tokens: characters that are cut between tokens are put together, and stop sequences never get out.

What might be the beginning of a stop sequence is held back until it is one or is not.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_decoder = codecs.getincrementaldecoder("utf-8")


class Text:
    """One answer's text as it grows. After `stopped` nothing more comes out of it."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decoder = _decoder("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, piece: bytes) -> str:
        """The characters that are certain now: whole, and no part of a stop sequence."""
        text = self._decoder.decode(piece)
        return self._without_stops(text) if self._stops else text

    def end(self) -> str:
        """What was held back; bytes that never became a character are replaced."""
        rest = self._decoder.decode(b"", True)
        if not self._stops:
            return rest
        rest = self._without_stops(rest)
        if self.stopped:
            return rest
        rest, self._held = rest + self._held, ""
        return rest

    def _without_stops(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max(beginning_at_end(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def beginning_at_end(text: str, mark: str) -> int:
    """How many characters at the end of a text are the beginning of `mark`."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0

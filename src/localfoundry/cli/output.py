"""The one place where the command line writes: data on standard output, everything else on standard error.

Tables fold on a narrow terminal and are plain aligned text when the output is a pipe. Colour needs a terminal and no
`NO_COLOR`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from localfoundry.errors import FoundryError

_DIM, _RED, _RESET = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_AT_ONCE = 1000  # lines that are written in one piece
_INDENT = "    "  # of what goes on from the line above


def data(text: str = "", end: str = "\n") -> None:
    """A line of what was asked for."""
    print(text, end=end, flush=True)


def document(value: Any) -> None:
    """The same as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def note(text: str = "", end: str = "\n") -> None:
    """Something beside what was asked for: progress, advice."""
    print(text, end=end, file=sys.stderr, flush=True)


def failure(error: FoundryError) -> None:
    """What failed and what to type next."""
    label = f"{_RED}error:{_RESET}" if _colour(sys.stderr) else "error:"
    note(f"{label} {error.message}")
    if error.hint and "\n" in error.hint:
        note("  try one of:")
        for line in error.hint.splitlines():
            note(f"    {line}")
    elif error.hint:
        note(f"  try: {error.hint}" if error.hint.startswith("foundry ") else f"  {error.hint}")


def dim(text: str) -> str:
    return f"{_DIM}{text}{_RESET}" if _colour(sys.stdout) else text


def interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def shows_progress() -> bool:
    """Whether a line that is written over and over makes sense."""
    return sys.stderr.isatty()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, prefix: str = "") -> None:
    """Rows under their headings; on a terminal that is too narrow each row takes several lines."""
    room = shutil.get_terminal_size().columns - len(prefix) if sys.stdout.isatty() else None
    lines = folded(columns, rows, room)
    while some := list(islice(lines, _AT_ONCE)):
        data("\n".join(prefix + line for line in some))


def folded(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int | None) -> Iterator[str]:
    """The lines of a table in `room` characters; None: in as many as it takes."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    places = _lines(widths, room)
    if len(places) == 1:
        form = "  ".join(f"%-{width}s" for width in widths)
        yield from ((form % tuple(row)).rstrip() for row in chain([columns], rows))
        return
    forms = ["  ".join(f"{{{i}:<{widths[i]}}}" for i in line) for line in places]
    for row in chain([columns], rows):
        for number, form in enumerate(forms):
            text = form.format(*row).rstrip()
            if text or number == 0:
                yield (_INDENT if number else "") + text


def _lines(widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Which columns stand on which line. A cell is never broken, so that a name can be copied as one piece."""
    lines: list[list[int]] = [[]]
    used = 0
    for column, width in enumerate(widths):
        if room is not None and lines[-1] and used + 2 + width > room:
            lines.append([])
            used = len(_INDENT) - 2
        used += width + (2 if column else 0)
        lines[-1].append(column)
    return lines


def _colour(stream: Any) -> bool:
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

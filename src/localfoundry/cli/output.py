"""The one place where the command line writes: data on standard output, everything else on standard error.

Tables fold on a narrow terminal and are plain aligned text when the output is a pipe. Colour needs a terminal and no
`NO_COLOR`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from localfoundry.errors import FoundryError

_DIM, _RED, _RESET = "\x1b[2m", "\x1b[31m", "\x1b[0m"


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
    if error.hint:
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
    """Rows under their headings."""
    width = max((len(c) for c in columns), default=0)
    if sys.stdout.isatty() and _needed(columns, rows) > shutil.get_terminal_size().columns >= width:
        _folded(columns, rows)
        return
    widths = [max([len(column), *(len(row[i]) for row in rows)]) for i, column in enumerate(columns)]
    for row in [columns, *rows]:
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        data(prefix + line.rstrip())


def _needed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(max([len(c), *(len(r[i]) for r in rows)]) + 2 for i, c in enumerate(columns))


def _folded(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    folded = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        folded.add_column(column, overflow="fold")
    for row in rows:
        folded.add_row(*row)
    Console(highlight=False, markup=False).print(folded)


def _colour(stream: Any) -> bool:
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

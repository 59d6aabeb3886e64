"""`foundry service logs`, `server logs`: the last lines of the service's log or of a model's worker, and what follows.

Files are read where they are, so this works while the service is stopped, and tells why it did not start.
"""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import UsageError

_POLL_S = 0.2


@click.command()
@click.argument("model", required=False)
@click.option("--lines", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
def logs(model: str | None, lines: int, follow: bool) -> None:
    """Show the service's log, or a model's worker's."""
    given = context.settings()
    file = given.log_dir / "service.log" if model is None else worker_log(given, model)
    try:
        with file.open("rb") as source:
            for line in last_lines(source, file, lines):
                output.data(line, end="")
            if follow:
                for text in following(source, file):
                    output.data(text, end="")
    except FileNotFoundError:
        hint = "foundry service start" if model is None else f"foundry model load {model}"
        raise UsageError(f"there is no log {file}", hint=hint) from None


def worker_log(given: Settings, model: str) -> Path:
    """The log of that model's last worker. An alias with several variants: the one that was written to last."""
    found = context.cached(given, model)
    names = [model]
    if found is not None:
        names = [found.name]
        if model.lower() == found.alias.lower():
            names += [m.name for m in context.store(given).manifests() if m.alias == found.alias]
    files = {file.name: file for file in given.log_dir.glob("worker-*.log")}
    present = [files[f"worker-{name}.log"] for name in names if f"worker-{name}.log" in files]
    if not present:
        return given.log_dir / f"worker-{names[0]}.log"
    return max(present, key=lambda file: file.stat().st_mtime)


def last_lines(source: BinaryIO, file: Path, count: int) -> list[str]:
    """Up to `count` lines before the end of `source`, which is left at its end; more from older files where needed."""
    kept = [line.decode("utf-8", "replace") for line in deque(source, count)]
    number = 1
    while len(kept) < count:
        try:
            with file.with_name(f"{file.name}.{number}").open(encoding="utf-8", errors="replace") as older:
                kept = [*deque(older, count - len(kept)), *kept]
        except OSError:
            break
        number += 1
    return kept


def following(source: BinaryIO, file: Path) -> Iterator[str]:
    """What is written to the log from here on, also after it was renamed or emptied because it was full."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    opened: BinaryIO | None = None
    try:
        while True:
            # The look at the name comes first: what is read after it is all that the renamed file will ever hold.
            fresh = _replaced(source, file)
            if text := decoder.decode(source.read()):
                yield text
            if fresh is None:
                time.sleep(_POLL_S)
                continue
            if opened is not None:
                opened.close()
            source = opened = fresh
    finally:
        if opened is not None:
            opened.close()


def _replaced(source: BinaryIO, file: Path) -> BinaryIO | None:
    """The file that has the log's name by now, where it is another one. One that was emptied is read from its start."""
    try:
        there = file.stat()
        if not os.path.samestat(there, os.fstat(source.fileno())):
            return file.open("rb")
    except OSError:  # for a moment, while it is renamed
        return None
    if there.st_size < source.tell():
        source.seek(0)
    return None

"""What our own workers write while they load: bytes by purpose, seconds, and why a load failed.

`workers/command_line.py` writes the first two. Whatever comes before them is the library's.
"""

from __future__ import annotations

import re

from localfoundry.engines.base import LoadAccount

_BYTES = re.compile(r"^(weights|kv_cache|compute)_bytes=(\d+)$", re.MULTILINE)
_SECONDS = re.compile(r"^engine_load_s=(\d+\.\d+)$", re.MULTILINE)
_LONGEST = 400


def account(log: str) -> LoadAccount:
    seconds = _SECONDS.search(log)
    found = {purpose: int(size) for purpose, size in _BYTES.findall(log)}
    return LoadAccount(found, float(seconds[1]) if seconds else None)


def complaint(log: str) -> str:
    """The line that the worker itself wrote, without folders; without one, it was ended and wrote nothing.

    What it said of a load that went well explains nothing.
    """
    lines = [line.strip() for line in _SECONDS.sub("", _BYTES.sub("", log)).splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return without_folders(errors[-1] if errors else "; ".join(lines[-2:]))[:_LONGEST]


def without_folders(text: str) -> str:
    """Paths cut to the names of files: an engine's message reaches HTTP clients. In quotes they may hold spaces."""
    text = re.sub(r"(['\"])(?:[A-Za-z]:)?[/\\][^'\"]*[/\\]", r"\1", text)
    return re.sub(r"(?:[A-Za-z]:)?[/\\][^\s'\"]*[/\\]", "", text)

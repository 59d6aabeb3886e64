"""Own prompts from a file: a line of text each, or JSON objects with a `prompt`, one on each line.

A line is an object where it begins with a brace, and every line is one in a file that is called .jsonl or .ndjson.
Bounded, since it may come from anyone; what is wrong is told with its line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from localfoundry.errors import InvalidRequest

MAX_BYTES = 20_000_000
MAX_PROMPTS = 1_000
MAX_CHARACTERS = 400_000


class Entry(msgspec.Struct):
    """One prompt. A subclass says what else an object may hold."""

    prompt: str


E = TypeVar("E", bound=Entry)


def read(path: Path, kind: type[E]) -> list[E]:
    """The prompts of a file, in order; empty lines are left out. Raises InvalidRequest with the line's number."""
    name = path.name
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise InvalidRequest(f"the prompts of {name} cannot be read: {exc.strerror}", param="prompts") from exc
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(
            f"{name} is larger than {MAX_BYTES:,} bytes, the most for a file of prompts", param="prompts"
        )
    as_json = path.suffix.lower() in (".jsonl", ".ndjson")
    found: list[E] = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            found.append(_entry(line.strip(), as_json, f"line {number} of {name}", kind))
            if len(found) > MAX_PROMPTS:
                raise InvalidRequest(f"{name} has more than {MAX_PROMPTS:,} prompts", param="prompts")
    if not found:
        raise InvalidRequest(f"{name} holds no prompt", param="prompts")
    return found


def _entry(line: bytes, as_json: bool, place: str, kind: type[E]) -> E:
    try:
        if as_json or line.startswith(b"{"):
            entry = msgspec.json.decode(line, type=kind)
            entry.prompt = entry.prompt.strip()
        else:
            entry = kind(prompt=line.decode().strip())
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"{place} is not UTF-8: {exc.reason} at byte {exc.start + 1}", param="prompts") from exc
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{place} is not an object with a `prompt`: {exc}", param="prompts") from exc
    if not entry.prompt or len(entry.prompt) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"the prompt of {place} has {len(entry.prompt):,} characters; 1 to {MAX_CHARACTERS:,} are possible",
            param="prompts",
        )
    return entry

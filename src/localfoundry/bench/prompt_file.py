"""Own prompts from a file: a line of text each, or JSON Lines with a `prompt` in each object. Bounded; errors name
the line.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from localfoundry.errors import InvalidRequest

MAX_BYTES = 20_000_000
MAX_PROMPTS = 1_000
MAX_CHARACTERS = 400_000


class _Line(msgspec.Struct):
    prompt: str


def read_prompts(path: Path) -> tuple[str, ...]:
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
    found = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            found.append(_prompt(line, as_json, f"line {number} of {name}"))
            if len(found) > MAX_PROMPTS:
                raise InvalidRequest(f"{name} has more than {MAX_PROMPTS:,} prompts", param="prompts")
    if not found:
        raise InvalidRequest(f"{name} holds no prompt", param="prompts")
    return tuple(found)


def _prompt(line: bytes, as_json: bool, place: str) -> str:
    try:
        text = msgspec.json.decode(line, type=_Line).prompt if as_json else line.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"{place} is not UTF-8: {exc.reason} at byte {exc.start + 1}", param="prompts") from exc
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{place} is not an object with a `prompt`: {exc}", param="prompts") from exc
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"the prompt of {place} has {len(text):,} characters; 1 to {MAX_CHARACTERS:,} are possible", param="prompts"
        )
    return text

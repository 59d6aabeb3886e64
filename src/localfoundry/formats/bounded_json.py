"""JSON from strangers: size, number of values and nesting are limited before anything is built of it.

Parsing text of 16 MB that is mostly brackets makes objects of a gigabyte. So the brackets and commas are counted
first, which takes milliseconds, and only then a parser sees the text.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from localfoundry.errors import NotAModel

MAX_VALUES = 1_000_000
MAX_DEPTH = 64


def parse_object(data: bytes, what: str, max_bytes: int) -> dict[str, Any]:
    """The object that `data` is. Raises NotAModel, which names `what`, for anything else and past the limits.

    A key that stands twice in one object is refused: two readers would each believe another of them.
    """
    if len(data) > max_bytes:
        raise NotAModel(f"{what} has {len(data):,} bytes, at most {max_bytes:,} are accepted")
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > MAX_VALUES:
        raise NotAModel(f"{what} holds about {values:,} values, at most {MAX_VALUES:,} are accepted")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except (
        ValueError,
        RecursionError,
    ) as exc:  # UnicodeDecodeError, JSONDecodeError and endless digits are ValueErrors
        reason = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)[:200]
        raise NotAModel(f"{what} is not sound JSON: {reason}") from exc
    if not isinstance(document, dict):
        raise NotAModel(f"{what} holds {type(document).__name__}, not an object")
    if _depth(document) > MAX_DEPTH:
        raise NotAModel(f"{what} is nested more than {MAX_DEPTH} deep")
    return document


def count(document: dict[str, Any], key: str, what: str, limit: int = 2**48) -> int | None:
    """A number of things under `key`, None where it is absent. Raises NotAModel for any other value."""
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise NotAModel(f"{what}: {key!r} is not a count: {str(value)[:40]!r}")
    return value


def text(document: dict[str, Any], key: str) -> str | None:
    """A text under `key`; None where there is none, or something else."""
    value = document.get(key)
    return value if isinstance(value, str) and value else None


def part(document: dict[str, Any], key: str) -> dict[str, Any]:
    """An object under `key`; empty where there is none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _depth(document: Any) -> int:
    level, depth = [document], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
    return depth

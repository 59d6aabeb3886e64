"""How single values of settings are read: from text of a flag or the environment, or typed from a file.

Each function makes a parser. A parser returns the value or raises ValueError whose text completes "expected …".
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

Parser = Callable[[object], object]


def integer(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"a whole number from {low} to {high}")
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def number(low: float, high: float) -> Callable[[object], float]:
    """A whole number stays one: `1` in a file is not rewritten as `1.0`."""

    def parse(value: object) -> float:
        expected = ValueError(f"a number from {low:g} to {high:g}")
        if isinstance(value, str):
            try:
                value = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
            except ValueError:
                raise expected from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise expected
        if not low <= value <= high:  # neither is what is not a number
            raise expected
        return value

    return parse


def boolean(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("true or false")


def text(value: object) -> str:
    if not isinstance(value, str) or not _unicode(value):
        raise ValueError("text")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    """One of these words, in any case."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise ValueError("one of " + ", ".join(words))

    return parse


def texts(at_most: int) -> Callable[[object], tuple[str, ...]]:
    """A list of texts, or one text alone, that are not empty; as text also JSON, `["a", "b"]`."""

    def parse(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = _json_list(value) if value.lstrip().startswith("[") else [value]
        if not isinstance(value, list | tuple) or not all(
            isinstance(word, str) and word and _unicode(word) for word in value
        ):
            raise ValueError(f"a list of at most {at_most} texts")
        if len(value) > at_most:
            raise ValueError(f"a list of at most {at_most} texts")
        return tuple(value)

    return parse


def arguments(value: object) -> tuple[str, ...]:
    """Words of a command line: a list of texts, as text also JSON or the words as a shell would split them."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        try:
            value = shlex.split(value)
        except ValueError as exc:
            raise ValueError(f"words of a command line ({exc})") from None
    return texts(100)(value)


def _unicode(value: str) -> bool:
    """Whether it can be written down: JSON can hold halves of characters, and command lines bytes that are none."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _json_list(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError('a list such as ["a", "b"]') from None

"""YAML from strangers: size, nesting and number of values are limited, and nothing but plain data can come of it.

YAML 1.2, since in 1.1 the answers `no` and `off` are false. Only the library's events are used and the values are built
here: its loaders expand anchors, which turns a kilobyte into gigabytes, and run tags. Suites need neither, so both are
refused where they stand. The trade-off: the parser is Python's own, about 100 KB a second, hence the limit on the size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from localfoundry.errors import InvalidSuite

MAX_BYTES = 512_000
MAX_VALUES = 100_000
MAX_DEPTH = 24
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "True": True, "false": False, "False": False}


def parse(data: bytes, what: str) -> Any:
    """The one document in `data`. Raises InvalidSuite, which names `what` and the line, for anything else."""
    if len(data) > MAX_BYTES:
        raise InvalidSuite(f"{what} has {len(data):,} bytes, at most {MAX_BYTES:,} are accepted")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidSuite(f"{what} is not UTF-8: byte {exc.start}") from exc
    try:
        return _Builder(YAML(typ="safe", pure=True).parse(text), what).document()
    except YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark is not None else ""
        problem = getattr(exc, "problem", None) or str(exc).partition("\n")[0]
        raise InvalidSuite(f"{what}:{line} {str(problem)[:200]}") from exc


class _Builder:
    """Values out of the parser's events; each is checked before the next one is asked for."""

    def __init__(self, events: Iterator[Any], what: str) -> None:
        self._events = events
        self._what = what
        self._values = 0

    def document(self) -> Any:
        next(self._events)  # the stream's start
        if _kind(next(self._events)) != "DocumentStart":
            raise InvalidSuite(f"{self._what} is empty")
        value = self._value(next(self._events), 1)
        next(self._events)  # the document's end
        event = next(self._events)
        if _kind(event) != "StreamEnd":
            raise self._refusal(event, "a second document begins; a suite is one")
        return value

    def _value(self, event: Any, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._refusal(event, f"more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise self._refusal(event, f"nested more than {MAX_DEPTH} deep")
        if event.anchor is not None:
            raise self._refusal(event, "anchors and aliases are not accepted; write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._refusal(event, f"tags are not accepted: {str(event.tag)[:60]}")
        kind = _kind(event)
        if kind == "Scalar":
            return _scalar(event.value) if event.style is None else event.value
        if kind == "SequenceStart":
            return [self._value(inner, depth + 1) for inner in self._until("SequenceEnd")]
        return self._mapping(depth)

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._until("MappingEnd"):
            if _kind(event) != "Scalar" or event.anchor is not None:
                raise self._refusal(event, "a key is a plain word")
            if event.value in found:
                raise self._refusal(event, f"the key {event.value[:60]!r} is there twice")
            found[event.value] = self._value(next(self._events), depth + 1)
        return found

    def _until(self, end: str) -> Iterator[Any]:
        while _kind(event := next(self._events)) != end:
            yield event

    def _refusal(self, event: Any, reason: str) -> InvalidSuite:
        return InvalidSuite(f"{self._what}: line {event.start_mark.line + 1}: {reason}")


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _scalar(text: str) -> Any:
    """A word without quotes, by the core schema of YAML 1.2, without its octal and hexadecimal numbers."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text

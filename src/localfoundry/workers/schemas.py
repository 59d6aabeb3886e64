"""JSON schemas that an answer can be held to: looked through before a library's grammar gets them.

Needed twice over. Grammars leave out what they do not know without a word (`not`, `multipleOf`, `uniqueItems`), and an
answer would then break its schema; and OpenVINO's pipeline never computes again after a schema that its grammar
refuses. So only what is known to be kept is let through, and anything else is refused by name.
"""

from __future__ import annotations

import re
from typing import Any

from localfoundry.workers.generation import Refused

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_WORDS = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"})
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})
_KNOWN = _WORDS | _COUNTS | {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "oneOf", "$ref",
    "$defs", "definitions", "pattern", "format", "minimum", "maximum",
}  # fmt: skip
_FORMATS = frozenset({
    "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid",
})  # fmt: skip
_ALONE = ("$ref", "anyOf", "oneOf", "enum", "const")  # grammars take the first of them, and nothing beside it
_BESIDE = _WORDS | {"$defs", "definitions"}
_MOST_DEPTH = 64
_MOST_PARTS = 5000
_MOST_COUNT = 100_000
# Plain regular expressions: no look-around, back reference, lazy quantifier, inner anchor, or class by name.
_PATTERN = re.compile(
    r"""\^? (?: [^\\^$.|?*+()\[\]{}] | \\[dwsDWS] | \\[^a-zA-Z0-9] | \. | \(\?: | \((?!\?) | \) | \|
           | \[ \^? (?: [^\\\[\]] | \\[dws] | \\[^a-zA-Z0-9] )+ \]
           | [*+?](?![+?]) | \{\d{1,4}(?:,\d{0,4})?\}(?![+?]) )* \$?""",
    re.VERBOSE,
)


def check(schema: Any, where: str) -> None:
    """Raises Refused naming the keyword that cannot be kept to and its place."""
    _Check(schema, where).schema(schema, where, 0)


class _Check:
    def __init__(self, root: Any, where: str) -> None:
        self._root = root
        self._parts = 0
        self._where = where

    def schema(self, schema: Any, place: str, depth: int) -> None:
        if schema is True or schema == {}:
            return
        self._parts += 1
        if depth > _MOST_DEPTH or self._parts > _MOST_PARTS:
            raise Refused(f"{self._where}: the schema is larger than {_MOST_PARTS} parts or {_MOST_DEPTH} levels")
        if not isinstance(schema, dict):
            raise Refused(f"{place}: expected a schema")
        for keyword in schema:
            if keyword not in _KNOWN:
                raise Refused(f"{place}.{keyword}: this engine cannot hold an answer to it")
        self._values(schema, place)
        _check_beside(schema, place)
        self._parts_of(schema, place, depth + 1)

    def _parts_of(self, schema: dict[str, Any], place: str, depth: int) -> None:
        for keyword in ("properties", "$defs", "definitions"):
            parts = schema.get(keyword, {})
            if not isinstance(parts, dict):
                raise Refused(f"{place}.{keyword}: expected schemas by name")
            for name, part in parts.items():
                self.schema(part, f"{place}.{keyword}.{name}", depth)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                if not isinstance(schema[keyword], list) or not schema[keyword]:
                    raise Refused(f"{place}.{keyword}: expected a list of schemas")
                for part in schema[keyword]:
                    self.schema(part, f"{place}.{keyword}", depth)
        for keyword in ("items", "additionalProperties"):
            if keyword in schema and not isinstance(schema[keyword], bool):
                self.schema(schema[keyword], f"{place}.{keyword}", depth)

    def _values(self, schema: dict[str, Any], place: str) -> None:
        types = schema.get("type", [])
        types = types if isinstance(types, list) else [types]
        if not all(isinstance(one, str) and one in _TYPES for one in types) or ("type" in schema and not types):
            raise Refused(f"{place}.type: expected one of {', '.join(sorted(_TYPES))}")
        if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
            raise Refused(f"{place}.enum: expected a list of values")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
            raise Refused(f"{place}.required: expected a list of names")
        properties = schema.get("properties", {})
        for name in required:
            if isinstance(properties, dict) and name not in properties:
                raise Refused(f"{place}.required: there is no property {name!r}")
        if "$ref" in schema:
            self._reference(schema["$ref"], place)
        self._bounds(schema, place)
        pattern = schema.get("pattern", "")
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern) or not _compiles(pattern):
            raise Refused(f"{place}.pattern: this engine cannot hold an answer to this expression")

    def _reference(self, reference: Any, place: str) -> None:
        """To a part of the schema itself, and not round in a circle that never comes to a value."""
        seen = set()
        while True:
            if not isinstance(reference, str) or reference in seen:
                raise Refused(f"{place}.$ref: it leads nowhere")
            seen.add(reference)
            target = self._target(reference, place)
            if not isinstance(target, dict) or "$ref" not in target:
                return
            reference = target["$ref"]

    def _target(self, reference: str, place: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            raise Refused(f"{place}.$ref: only parts of the same schema can be referred to")
        target = self._root
        for step in reference.split("/")[1:]:
            if not isinstance(target, dict) or step not in target:
                raise Refused(f"{place}.$ref: there is no {reference}")
            target = target[step]
        return target

    def _bounds(self, schema: dict[str, Any], place: str) -> None:
        for keyword in _COUNTS & schema.keys():
            count = schema[keyword]
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_COUNT:
                raise Refused(f"{place}.{keyword}: expected a whole number from 0 to {_MOST_COUNT}")
        for low, high in (("minItems", "maxItems"), ("minLength", "maxLength"), ("minimum", "maximum")):
            if low in schema and high in schema and schema[low] > schema[high]:
                raise Refused(f"{place}.{low}: it is above {high}")
        for keyword in ("minimum", "maximum"):
            bound = schema.get(keyword, 0)
            if not isinstance(bound, int) or isinstance(bound, bool) or abs(bound) >= 2**53:
                raise Refused(f"{place}.{keyword}: expected a whole number")
            if keyword in schema and schema.get("type") != "integer":
                raise Refused(f"{place}.{keyword}: this engine can hold whole numbers to it only (type integer)")


def _check_beside(schema: dict[str, Any], place: str) -> None:
    """Refuse what grammars would leave out because of a neighbour."""
    for keyword in _ALONE:
        beside = schema.keys() - _BESIDE - {keyword}
        if keyword in ("enum", "const"):
            beside -= {"type"}
        if keyword in schema and beside:
            raise Refused(f"{place}.{min(beside)}: this engine cannot hold an answer to it beside {keyword}")
    for keyword in ("pattern", "format"):
        beside = schema.keys() & {"pattern", "format", "minLength", "maxLength"} - {keyword}
        if keyword in schema and beside:
            raise Refused(f"{place}.{min(beside)}: this engine cannot hold an answer to it beside {keyword}")
    if str(schema.get("format", "date")) not in _FORMATS:
        raise Refused(f"{place}.format: expected one of {', '.join(sorted(_FORMATS))}")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True

"""Schemas of strangers: let through or refused by name, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfoundry.workers import calls, schemas
from localfoundry.workers.generation import Refused

_WORDS = st.sampled_from([
    "type", "properties", "required", "items", "anyOf", "oneOf", "enum", "const", "$ref", "$defs", "definitions",
    "pattern", "format", "minLength", "maxItems", "minimum", "additionalProperties", "not", "title",
])  # fmt: skip
_LEAVES = st.sampled_from([
    "object", "string", "integer", "nosuch", "#", "#/$defs/a", "a+", "(?=a)", "date", 3, -1, 2.5, True, None, [], {},
])  # fmt: skip
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.just("a"), inner, max_size=4)
)


@settings(max_examples=300)
@given(_VALUES)
def test_anything_is_let_through_or_refused_with_words(schema: Any) -> None:
    with contextlib.suppress(Refused):
        schemas.check(schema, "response_format")


def test_depth_and_size_are_bounded() -> None:
    deep: Any = {"type": "integer"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    wide = {"type": "object", "properties": {str(n): {"type": "null"} for n in range(6000)}}
    for schema in (deep, wide):
        with pytest.raises(Refused, match="larger than"):
            schemas.check(schema, "x")


def test_definitions_of_tools_come_together() -> None:
    def tool(name: str, size: int) -> dict[str, Any]:
        parameters = {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/word"}},
            "$defs": {"word": {"type": "string", "maxLength": size}},
        }
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    made = json.loads(calls.grammar("hermes", [tool("one", 3), tool("two", 3)]).schema)
    assert made["$defs"] == {"word": {"type": "string", "maxLength": 3}}
    assert [one["properties"]["name"]["const"] for one in made["anyOf"]] == ["one", "two"]
    with pytest.raises(Refused, match="another definition"):
        calls.grammar("hermes", [tool("one", 3), tool("two", 4)])

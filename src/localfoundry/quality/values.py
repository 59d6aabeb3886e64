"""Checks on structured answers: JSON in the text, and calls of tools. Each returns the reason of failure, or None.

Talk around the JSON and a code fence are forgiven, since what is asked for is the content. An expected value may be
`{any_of: [...]}` or, for a list, `{any_order: [...]}`; fields that were not asked for do no harm.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from localfoundry.errors import InvalidSuite
from localfoundry.quality.reply import Call
from localfoundry.quality.texts import PATTERN_BYTES, folded, shown

_FENCED = re.compile(r"```[a-zA-Z0-9]*\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_TRIES = 20  # places where JSON may begin; more would make a text of brackets slow


class _Missing:
    """There is no JSON in the text; None is JSON."""


def fields(wanted: dict[str, Any], text: str) -> str | None:
    """The answer is a JSON object with these fields and values."""
    value = document(text)
    if not isinstance(value, dict):
        return f"holds no JSON object: {shown(text)}"
    return difference(wanted, value)


def json_schema(schema: dict[str, Any], text: str) -> str | None:
    import jsonschema_rs

    validator = compiled(schema)
    value = document(text)
    if isinstance(value, _Missing):
        return f"holds no JSON: {shown(text)}"
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as exc:
        path = "".join(f"[{part!r}]" for part in exc.instance_path)
        return f"JSON{path}: {exc.message[:200]}"
    return None


def compiled(schema: dict[str, Any]) -> Any:
    """A validator. Raises InvalidSuite for a schema that is none, or that refers to something outside itself."""
    return _compiled(json.dumps(schema, sort_keys=True))


@functools.lru_cache(maxsize=256)
def _compiled(schema: str) -> Any:
    import jsonschema_rs

    options = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)
    try:
        return jsonschema_rs.validator_for(json.loads(schema), pattern_options=options, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as exc:
        raise InvalidSuite(f"the JSON Schema is not valid: {str(exc).partition(chr(10))[0][:200]}") from exc


def tool_calls(wanted: Sequence[Call], calls: Sequence[Call]) -> str | None:
    """Exactly these calls were made, in any order; an empty list means that none may be made."""
    if len(calls) != len(wanted):
        made = ", ".join(call.name for call in calls[:5]) or "none"
        return f"{len(calls)} tool calls ({made}), {len(wanted)} expected"
    left = list(calls)
    for call in wanted:
        reasons = [_call_difference(call, made) for made in left]
        if None not in reasons:
            return reasons[0]
        del left[reasons.index(None)]
    return None


def _call_difference(wanted: Call, made: Call) -> str | None:
    if made.name != wanted.name:
        return f"calls {made.name!r} and not {wanted.name!r}"
    if made.arguments is None:
        return f"the arguments of {made.name} are no JSON object"
    return difference(wanted.arguments or {}, made.arguments)


def difference(wanted: Any, got: Any, path: str = "") -> str | None:
    """Where `got` is not what is wanted, or None."""
    place = path or "the answer"
    if isinstance(wanted, dict):
        if set(wanted) == {"any_of"}:
            reasons = [difference(one, got, path) for one in wanted["any_of"]]
            return None if None in reasons else f"{place} is {shown(str(got))}"
        if set(wanted) == {"any_order"}:
            return _any_order(wanted["any_order"], got, path)
        if not isinstance(got, dict):
            return f"{place} is no object"
        each = (
            difference(value, got[key], f"{path}.{key}".lstrip(".")) if key in got else f"{key!r} is missing"
            for key, value in wanted.items()
        )
        return next((reason for reason in each if reason), None)
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(got) != len(wanted):
            return f"{place} is not a list of {len(wanted)}"
        inner = (difference(w, g, f"{path}[{i}]") for i, (w, g) in enumerate(zip(wanted, got, strict=True)))
        return next((reason for reason in inner if reason), None)
    return None if _same(wanted, got) else f"{place} is {json.dumps(got, ensure_ascii=False)[:80]}, not {wanted!r}"


def _any_order(wanted: list[Any], got: Any, path: str) -> str | None:
    if not isinstance(got, list) or len(got) != len(wanted):
        return f"{path or 'the answer'} is not a list of {len(wanted)}"
    left = list(got)
    for one in wanted:
        match = next((i for i, value in enumerate(left) if difference(one, value) is None), None)
        if match is None:
            return f"{path or 'the answer'} lacks {one!r}"
        del left[match]
    return None


def _same(wanted: object, got: object) -> bool:
    if isinstance(wanted, bool) or isinstance(got, bool) or wanted is None or got is None:
        return wanted is got
    if isinstance(wanted, int | float):
        return isinstance(got, int | float) and math.isclose(wanted, got, rel_tol=1e-6, abs_tol=1e-9)
    return isinstance(got, str) and folded(str(wanted)) == folded(got)


def document(text: str) -> Any:
    """The JSON in an answer: all of it, a fenced block, or the first value that stands in the text; else `_Missing`."""
    for candidate in (text, *_FENCED.findall(text)):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder()
    for place in list(_OPENING.finditer(text))[:_TRIES]:
        try:
            return decoder.raw_decode(text, place.start())[0]
        except (ValueError, RecursionError):
            continue
    return _Missing()

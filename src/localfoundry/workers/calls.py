"""Calls of tools in what a model writes, as its family writes them; and the grammar of an answer that must be one.

    form        written as                                                   families
    hermes      <tool_call>{"name": …, "arguments": {…}}</tool_call>, …      Qwen, Hermes, SmolLM3 and many others
    json        {"name": …, "parameters": {…}}                               Llama 3

A call is handed on whole when its end has come: half a call is of no use to a program. What looks like a call and is
none stays text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from localfoundry.workers import schemas
from localfoundry.workers.generation import Grammar, Refused
from localfoundry.workers.text import beginning_at_end

Form = Literal["hermes", "json"]
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name and its arguments, as JSON text."""

    id: str
    name: str
    arguments: str

    def delta(self, index: int) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"index": index, "id": self.id, "type": "function", "function": function}


def form_of(template: str) -> Form:
    return "hermes" if _OPEN in template else "json"


def grammar(form: Form, tools: Sequence[dict[str, Any]]) -> Grammar:
    """An answer that is a call of one of these tools. Raises Refused for a schema that cannot be kept to."""
    key = "arguments" if form == "hermes" else "parameters"
    definitions: dict[str, dict[str, Any]] = {"$defs": {}, "definitions": {}}
    choices = []
    for tool in tools:
        function = tool["function"]
        parameters = dict(function.get("parameters") or {"type": "object", "properties": {}})
        where = f"tools.{function['name']}.parameters"
        schemas.check(parameters, where)
        for place, known in definitions.items():  # references name them from the root, which is now another one
            for name, part in parameters.pop(place, {}).items():
                if known.setdefault(name, part) != part:
                    raise Refused(f"{where}.{place}.{name}: another tool has another definition of this name")
        properties = {"name": {"const": function["name"]}, key: parameters}
        choices.append(
            {"type": "object", "properties": properties, "required": ["name", key], "additionalProperties": False}
        )
    schema: dict[str, Any] = choices[0] if len(choices) == 1 else {"anyOf": choices}
    schema |= {place: known for place, known in definitions.items() if known}
    schemas.check(schema, "tools")
    before, after = (f"{_OPEN}\n", f"\n{_CLOSE}") if form == "hermes" else ("", "")
    return Grammar(json.dumps(schema), before, after)


class Calls:
    """Finds calls in text as it comes. `names`: of the tools there are."""

    def __init__(self, form: Form, names: Sequence[str]) -> None:
        self.found = 0
        self._form = form
        self._names = frozenset(names)
        self._held = ""

    def feed(self, text: str, *, last: bool = False) -> tuple[str, list[Call]]:
        """(text, calls) that are certain; `last`: nothing follows."""
        self._held += text
        said, calls = self._hermes(last) if self._form == "hermes" else self._json(last)
        self.found += len(calls)
        return said, calls

    def _hermes(self, last: bool) -> tuple[str, list[Call]]:
        said = ""
        calls: list[Call] = []
        while True:
            before, opened, rest = self._held.partition(_OPEN)
            if not opened:
                keep = 0 if last else beginning_at_end(before, _OPEN)
                said += before[: len(before) - keep]
                self._held = before[len(before) - keep :]
                break
            inside, closed, after = rest.partition(_CLOSE)
            call = self._read(inside) if closed or last else None
            if not closed and not last:
                said, self._held = said + before, opened + rest
                break
            if call is None:
                said += before + opened + inside + closed
            else:
                said += before
                calls.append(call)
            self._held = after
        if (calls or self.found) and not said.strip():
            said = ""  # the line ends between calls
        return said, calls

    def _json(self, last: bool) -> tuple[str, list[Call]]:
        """The whole answer is a call, or none of it."""
        begun = self._held.lstrip()
        if not last and (not begun or begun.startswith("{")):
            return "", []
        held, self._held = self._held, ""
        call = self._read(held) if begun.startswith("{") else None
        return ("", [call]) if call is not None else (held, [])

    def _read(self, text: str) -> Call | None:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or said.get("name") not in self._names:
            return None
        arguments = said.get("arguments", said.get("parameters", {}))
        if isinstance(arguments, str):
            return Call(_new_id(), said["name"], arguments)
        return Call(_new_id(), said["name"], json.dumps(arguments, ensure_ascii=False))


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"

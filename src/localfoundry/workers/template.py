"""A model's chat template rendered: conversations become prompts.

minijinja and not jinja2, because it counts steps: templates come from strangers, and one that loops must not stop the
worker. The dialect is that of the hub's own library: trimmed blocks, Python's methods on texts and lists,
`raise_exception`, `strftime_now`, and a `tojson` that leaves HTML alone. The service tries templates with the same
dialect before they get here (`formats/render.py`); workers stand alone, so this is their own.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from typing import Any

from localfoundry.workers.generation import Refused

_FUEL = 5_000_000  # steps of one rendering; ten thousand messages take half a million
_TRAINING_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # they print nothing
# Messages are Python's lists and dicts, and their plain methods can be called with anything.
_OF_METHODS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
_PROBE = "probe_7f3a"


class ChatTemplate:
    """One model's template. Raises minijinja.TemplateError where its source is none."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        import minijinja

        self.source = source
        self._errors = (minijinja.TemplateError, _Raised, *_OF_METHODS)
        self._refusals: list[str] = []
        self._environment = minijinja.Environment(
            templates={"chat": _TRAINING_MARKS.sub("", source)},
            globals={"raise_exception": self._raise, "strftime_now": _now, "bos_token": bos, "eos_token": eos},
            filters={"tojson": _to_json, "length": _length, "count": _length},
            fuel=_FUEL,
            trim_blocks=True,
            lstrip_blocks=True,
            pycompat=True,
            auto_escape_callback=lambda _: False,
        )

    def render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, extra: Any = None
    ) -> str:
        """The prompt for the next answer; an answer that the last message has begun is gone on with. Raises Refused."""
        begun = ""
        if len(messages) > 1 and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
            begun = _plain(messages[-1])["content"]
            messages = messages[:-1]
        names: dict[str, Any] = {**(extra or {}), "messages": [_plain(one) for one in messages]}
        names["add_generation_prompt"] = True
        if tools:
            names["tools"] = tools
        self._refusals.clear()
        try:
            text: str = self._environment.render_template("chat", **names)
        except self._errors as exc:
            reason = self._refusals[0] if self._refusals else str(exc).partition("\n")[0]
            raise Refused(f"messages: the model's chat template says: {reason[:300]}") from None
        return text + begun

    def supports_tools(self) -> bool:
        """Whether tools get into the prompt: tried with one."""
        function = {"name": _PROBE, "description": "", "parameters": {"type": "object", "properties": {}}}
        try:
            prompt = self.render([{"role": "user", "content": "x"}], [{"type": "function", "function": function}])
        except Refused:
            return False
        return _PROBE in prompt

    def _raise(self, message: object = "") -> None:
        self._refusals.append(str(message))
        raise _Raised(message)


class _Raised(Exception):
    """The template called `raise_exception`."""


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """A message as templates know it: parts joined to one text, arguments of calls as values and not as JSON text."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content)
    message = {**message, "content": content if content is not None else ""}
    if message.get("tool_calls"):
        message["tool_calls"] = [_with_values(call) for call in message["tool_calls"]]
    return message


def _with_values(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    if isinstance(function.get("arguments"), str):
        with contextlib.suppress(ValueError, RecursionError):  # it stays the text it is
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _length(value: Any) -> int:
    """What is not there has no length, as in jinja2: templates ask for that of tools."""
    return 0 if value is None else len(value)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    separators = options.get("separators")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,
        sort_keys=bool(options.get("sort_keys")),
    )

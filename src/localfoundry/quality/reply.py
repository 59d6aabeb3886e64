"""What a model answered, as the checks see it: the text without its reasoning, and the tools it called."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(r"<(?:think|thinking|reasoning)>.*", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r".*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool that was called. `arguments` None: what the model wrote there is no JSON object."""

    name: str
    arguments: dict[str, Any] | None = {}


class Reply(msgspec.Struct, frozen=True):
    """`text`: the answer proper. Reasoning that a server delivers in a field of its own never gets here."""

    text: str = ""
    calls: tuple[Call, ...] = ()


def without_reasoning(text: str) -> str:
    """`text` without sections between think tags.

    A section that is never closed is all reasoning: the tokens ran out before an answer came. One that is never
    opened was opened by the chat template, so all up to its end is reasoning.
    """
    kept = _REASONING.sub("", text)
    kept = _CLOSED.sub("", kept)
    return _OPENED.sub("", kept).strip()

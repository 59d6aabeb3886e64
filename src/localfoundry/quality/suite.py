"""Suites: items to ask, how to check the answers, and the key that proves the checks. Files in YAML, decoded strictly.

A suite is one file in one language. Every item carries a reference answer, which its checks have to pass, and wrong
ones, which they have to fail: `key` tries both, so that a check that passes anything is found before it is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from localfoundry.errors import InvalidSuite
from localfoundry.quality import bounded_yaml
from localfoundry.quality.reply import Call

Language = Literal["en", "da"]
LANGUAGES: tuple[Language, ...] = ("en", "da")
PACKS = ("chat", "code", "reasoning", "extraction", "recall", "tools")
MAX_ITEMS = 1000
MAX_HAYSTACK_TOKENS = 200_000

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Unknown fields are refused: a check that is spelled wrong must not silently check nothing.

    Defaults are left out of the canonical form, so that a field added later changes no hash of a suite without it.
    """


class Contains(_Strict, frozen=True):
    """Whole words, case ignored: all of `all`, one of `any`, none of `none`. A `*` at the end allows any ending."""

    all: list[Text] = []
    any: list[Text] = []
    none: list[Text] = []


class Numeric(_Strict, frozen=True):
    """The number asked for, within `tolerance` (absolute) or `relative` (a share of it), whichever is wider."""

    value: float
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    relative: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class Length(_Strict, frozen=True):
    """Bounds on an answer's words, on its lines that are not empty, and on those of them that are list entries."""

    min_words: int | None = None
    max_words: int | None = None
    min_lines: int | None = None
    max_lines: int | None = None
    bullets: int | None = None


class Check(_Strict, frozen=True):
    """Exactly one of these is set; docs/eval.md says what each takes for right."""

    exact: Text | list[Text] | None = None
    contains: Text | list[Text] | Contains | None = None
    regex: Pattern | None = None
    numeric: float | Numeric | None = None
    length: Length | None = None
    fields: dict[str, Any] | None = None
    json_schema: dict[str, Any] | None = None
    tool_calls: list[Call] | None = None
    python: Text | None = None
    refusal: bool | None = None
    language: Language | None = None

    @property
    def kind(self) -> str:
        """The name of the one field that is set."""
        return next(name for name in self.__struct_fields__ if getattr(self, name) is not None)


class Message(_Strict, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: Text


class Tool(_Strict, frozen=True):
    """A function that the model may call, in the terms of the OpenAI API."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text
    parameters: dict[str, Any]


class Needle(_Strict, frozen=True):
    """A sentence to be found again. `depth`: 0.0 at the start of the text, 1.0 at its end."""

    text: Text
    depth: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Haystack(_Strict, frozen=True):
    """Text to look for needles in, put where the prompt says `{haystack}`. About `tokens` long; see `recall`."""

    tokens: Annotated[int, msgspec.Meta(ge=20, le=MAX_HAYSTACK_TOKENS)]
    needles: Annotated[list[Needle], msgspec.Meta(max_length=50)] = []
    seed: int = 1


class KeyCalls(_Strict, frozen=True):
    """An answer of the key that calls tools."""

    calls: list[Call]
    text: str = ""


class Item(_Strict, frozen=True):
    """One task. `tools`: names of the suite's tools that the model is offered.

    `level`: 1 nearly every model can, 3 many fail, 5 few succeed; a hint for people, not a weight.
    """

    id: Name
    checks: Annotated[list[Check], msgspec.Meta(min_length=1, max_length=16)]
    prompt: Text | None = None
    messages: Annotated[list[Message], msgspec.Meta(max_length=100)] | None = None
    system: Text | None = None
    haystack: Haystack | None = None
    tools: Annotated[list[str], msgspec.Meta(max_length=64)] = []
    max_tokens: Tokens = 256
    level: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    tags: Annotated[list[Tag], msgspec.Meta(max_length=20)] = []
    answer: Text | KeyCalls | None = None
    wrong: Annotated[list[Text | KeyCalls], msgspec.Meta(max_length=20)] = []


class _Head(_Strict, frozen=True):
    suite: Name
    language: Language
    items: Annotated[list[Any], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    tools: Annotated[list[Tool], msgspec.Meta(max_length=64)] = []
    about: str = ""
    license: str = ""


class Suite(msgspec.Struct, frozen=True):
    """`sha256`: of the content, see `content_sha256`; it stands beside every result."""

    name: str
    language: Language
    items: tuple[Item, ...]
    sha256: str
    tools: tuple[Tool, ...] = ()
    about: str = ""


def pack(name: str, language: Language) -> Suite:
    """A suite that comes with this product."""
    file = resources.files("localfoundry.quality") / "packs" / f"{name}-{language}.yaml"
    return decode(file.read_bytes(), f"the pack {name} ({language})")


def load(path: Path) -> Suite:
    """A suite of the user's own. Raises InvalidSuite, naming file, item and field."""
    try:
        with path.open("rb") as file:
            data = file.read(bounded_yaml.MAX_BYTES + 1)
    except OSError as exc:
        raise InvalidSuite(f"{path} cannot be read: {exc.strerror or exc}", hint="foundry eval --list") from exc
    return decode(data, str(path))


def decode(data: bytes, what: str) -> Suite:
    """The suite that `data` holds. Raises InvalidSuite, which names `what`, the item and the field."""
    document = bounded_yaml.parse(data, what)
    try:
        head = msgspec.convert(document, _Head)
    except msgspec.ValidationError as exc:
        raise InvalidSuite(f"{what}: {_where(exc)}") from exc
    names = {tool.name for tool in head.tools}
    items = tuple(_item(raw, number, what, names) for number, raw in enumerate(head.items, 1))
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InvalidSuite(f"{what}: two items are called {item.id}; results could not be told apart")
        seen.add(item.id)
    sha256 = content_sha256(head.suite, head.language, items, head.tools)
    return Suite(head.suite, head.language, items, sha256, tuple(head.tools), head.about)


def content_sha256(name: str, language: Language, items: Sequence[Item], tools: Sequence[Tool]) -> str:
    """What is asked and how it is checked, as canonical JSON (keys sorted, no spaces, no defaults), hashed.

    Results of two suites with one name compare only where this is the same. Comments and the form of the file are no
    part of it, nor what decides no result: `about`, `license`, levels, tags, and the key (`answer`, `wrong`).
    """
    asked = [msgspec.structs.replace(item, level=3, tags=[], answer=None, wrong=[]) for item in items]
    content = {"suite": name, "language": language, "items": asked, "tools": tools}
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _item(raw: Any, number: int, what: str, tools: set[str]) -> Item:
    named = raw.get("id") if isinstance(raw, dict) else None
    place = f"{what}: item {number}" + (f" ({str(named)[:64]})" if named else "")
    try:
        item = msgspec.convert(raw, Item)
    except msgspec.ValidationError as exc:
        raise InvalidSuite(f"{place}: {_where(exc)}") from exc
    if problem := _problem(item, tools):
        raise InvalidSuite(f"{place}: {problem}")
    return item


def _problem(item: Item, tools: set[str]) -> str | None:
    """What no type can say."""
    if (item.prompt is None) == (item.messages is None):
        return "either `prompt` or `messages`, and not both"
    texts = [item.prompt or "", *(message.content for message in item.messages or [])]
    if ("{haystack}" in "".join(texts)) != (item.haystack is not None):
        return "`haystack` and the mark {haystack} in the prompt go together"
    if unknown := [name for name in item.tools if name not in tools]:
        return f"tools: the suite has no tool {unknown[0]!r}"
    for number, check in enumerate(item.checks):
        given = [name for name in check.__struct_fields__ if getattr(check, name) is not None]
        if len(given) != 1:
            return f"checks[{number}] has {len(given)} kinds, it needs exactly one: {', '.join(given) or 'none'}"
        if check.contains == Contains():
            return f"checks[{number}].contains asks for nothing"
    return None


def _where(error: msgspec.ValidationError) -> str:
    """msgspec's words with the field first: `checks[0].regex: Expected str, got int`."""
    text = str(error).replace("`", "")
    found = re.fullmatch(r"(?s)(.*?)(?: - at \$\.?(.*))?", text)
    assert found is not None
    return f"{found[2]}: {found[1]}" if found[2] else found[1]


def spread(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    """`count` of the items, evenly over the suite, so that a short run meets easy and hard ones alike."""
    if count >= len(items):
        return items
    return tuple(items[index * len(items) // count] for index in range(count))

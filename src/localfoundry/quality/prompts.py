"""Prompts for people to rate answers to: the course's four, in Danish and English, those of a suite, or of a file.

A file has a prompt on each line, or JSON objects with `prompt` and, where wanted, `id` and `language` (JSON Lines).
Bounded, since it may come from anyone; what is wrong is told with its line.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from localfoundry.errors import InvalidRequest
from localfoundry.quality.ratings import Question
from localfoundry.quality.suite import Suite

COURSE = "course"
_MAX_BYTES = 4_000_000
_MAX_PROMPTS = 1000
_PROMPTS = {
    "da": {
        "quantum": "Forklar kvantecomputing på en enkel måde.",
        "sort": "Skriv en Python-funktion til at sortere en liste.",
        "remote": "Hvad er fordele og ulemper ved fjernarbejde?",
        "edge": "Opsummer fordelene ved edge AI.",
    },
    "en": {
        "quantum": "Explain quantum computing in a simple way.",
        "sort": "Write a Python function that sorts a list.",
        "remote": "What are the advantages and drawbacks of remote work?",
        "edge": "Summarise the benefits of edge AI.",
    },
}
LANGUAGES = tuple(_PROMPTS)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    language: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}$")] = "en"


def course(languages: tuple[str, ...] = LANGUAGES) -> list[Question]:
    """The course's prompts in these languages."""
    return [Question(COURSE, item, lang, text) for lang in languages for item, text in _PROMPTS[lang].items()]


def of_suite(suite: Suite) -> list[Question]:
    """The items that are one plain prompt. Calls of tools, long texts to search and dialogues are not for reading."""
    return [
        Question(suite.name, item.id, suite.language, item.prompt.strip())
        for item in suite.items
        if item.prompt is not None and item.haystack is None and item.system is None and not item.tools
    ]


def read(path: Path) -> list[Question]:
    """The prompts of a file. Raises InvalidRequest, which names the line."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidRequest(f"{path} is larger than {_MAX_BYTES:,} bytes", param="prompts")
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as exc:
        raise InvalidRequest(f"{path} cannot be read: {exc.strerror or exc}", param="prompts") from exc
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise InvalidRequest(f"{path}, line {line}: no UTF-8", param="prompts") from exc
    found = [_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found or len(found) > _MAX_PROMPTS:
        raise InvalidRequest(f"{path} holds {len(found):,} prompts; 1 to {_MAX_PROMPTS:,} are taken", param="prompts")
    seen: set[tuple[str, str]] = set()
    for question in found:
        if (question.item, question.language) in seen:
            raise InvalidRequest(f"{path}: two prompts are called {question.item}", param="prompts")
        seen.add((question.item, question.language))
    return found


def _question(path: Path, number: int, line: str) -> Question:
    if not line.lstrip().startswith("{"):
        return _named(line.strip(), None, "en")
    try:
        given = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{path}, line {number}: {exc}", param="prompts") from exc
    return _named(given.prompt, given.id, given.language)


def _named(prompt: str, name: str | None, language: str) -> Question:
    return Question("prompts", name or hashlib.sha256(prompt.encode()).hexdigest()[:12], language, prompt)

"""Prompts for people to rate answers to: the course's four, in Danish and English, those of a suite, or of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from localfoundry.errors import InvalidRequest
from localfoundry.prompts import course as course_prompts
from localfoundry.prompts import file
from localfoundry.quality.ratings import Question
from localfoundry.quality.suite import Item, Suite

COURSE = course_prompts.NAME
LANGUAGES = course_prompts.LANGUAGES


class _Entry(file.Entry, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    language: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}$")] = "en"


def course(languages: tuple[str, ...] = LANGUAGES) -> list[Question]:
    """The course's prompts in these languages."""
    given = course_prompts.QUESTIONS
    return [Question(COURSE, item, lang, text) for lang in languages for item, text in given[lang].items()]


def of_suite(suite: Suite) -> list[Question]:
    """The items that are one plain prompt."""
    questions = (Question(suite.name, item.id, suite.language, readable(item)) for item in suite.items)
    return [question for question in questions if question.prompt]


def readable(item: Item) -> str:
    """The prompt, where it is all that was asked; else nothing. Tools, long texts and dialogues are not for reading."""
    if item.prompt is None or item.haystack is not None or item.system is not None or item.tools:
        return ""
    return item.prompt.strip()


def read(path: Path) -> list[Question]:
    """The prompts of a file. Raises InvalidRequest, which names the line."""
    found = [_question(entry) for entry in file.read(path, _Entry)]
    seen: set[tuple[str, str]] = set()
    for question in found:
        if (question.item, question.language) in seen:
            raise InvalidRequest(f"{path.name}: two prompts are called {question.item}", param="prompts")
        seen.add((question.item, question.language))
    return found


def _question(entry: _Entry) -> Question:
    name = entry.id or hashlib.sha256(entry.prompt.encode()).hexdigest()[:12]
    return Question("prompts", name, entry.language, entry.prompt)

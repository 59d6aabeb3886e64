"""The same question and what each candidate answered, side by side.

Answers are words of strangers: a model can write anything, tags and control characters too. Here they become plain
text of a bounded length; escaping is the page's.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

import msgspec

from localfoundry.bench.plan import Plan
from localfoundry.compare.evidence import Evidence, Panel, short
from localfoundry.compare.verdict import main_condition

LONGEST = 1500  # characters of an answer
_QUESTIONS = 4  # of a bench
_ITEMS = 12  # of suites
_KEPT = "\n\t"


class Answer(msgspec.Struct, frozen=True):
    """`verdict`: passed, failed, or an error; empty where nothing was checked."""

    label: str
    text: str
    verdict: str = ""


class Question(msgspec.Struct, frozen=True):
    where: str
    prompt: str
    answers: tuple[Answer, ...]


def questions(evidence: Evidence, prompts: Mapping[tuple[str, str, str], str]) -> list[Question]:
    """Some of the bench, then some of the suites: those first on which candidates differ.

    `prompts`: of items, by suite, language and item; an item that is not there is shown by its name.
    """
    found = [question for panel in evidence.panels for question in _of_bench(panel)]
    return found + _of_items(evidence, prompts)


def _of_bench(panel: Panel) -> list[Question]:
    condition = main_condition(panel)
    if condition is None:
        return []
    by_place: dict[tuple[int, int], list[Answer]] = {}
    for f in panel.under(condition):
        for s in f.cell.good:
            if len(by_place) < _QUESTIONS or (s.round, s.seq) in by_place:
                by_place.setdefault((s.round, s.seq), []).append(Answer(f.label, plain(s.answer)))
    plan: Plan = panel.measurement.plan
    first = panel.under(condition)[0].cell.candidate
    return [
        Question(
            f"{condition.key}, round {number}, run {short(panel.run)}",
            plain(_prompt(plan.question(first, condition, number, seq, 0).body)),
            tuple(answers),
        )
        for (number, seq), answers in sorted(by_place.items())
    ]


def _prompt(body: Mapping[str, object]) -> str:
    messages = body["messages"]
    return str(messages[-1]["content"]) if isinstance(messages, list) else ""


def _of_items(evidence: Evidence, prompts: Mapping[tuple[str, str, str], str]) -> list[Question]:
    items: dict[tuple[str, str, str], list[Answer]] = {}
    for r in evidence.items:
        word = f"error: {r.error}" if r.error else "passed" if r.passed else f"failed: {'; '.join(r.failures)}"
        said = r.answer or r.calls
        items.setdefault((r.suite, r.language, r.item), []).append(Answer(r.model, plain(said), plain(word, 300)))
    differing = {key for key, answers in items.items() if len({a.verdict == "passed" for a in answers}) > 1}
    # Of each task in turn, so that a long first one does not take all the room.
    places: Counter[tuple[str, str, bool]] = Counter()
    turns = {}
    for key in items:
        group = (*key[:2], key in differing)
        turns[key] = places[group]
        places[group] += 1
    chosen = sorted(items, key=lambda key: (key not in differing, turns[key]))[:_ITEMS]
    return [
        Question(f"{suite} ({language}), item {item}", plain(prompts.get((suite, language, item), "")),
                 tuple(items[suite, language, item]))
        for suite, language, item in chosen
    ]  # fmt: skip


def plain(text: str, longest: int = LONGEST) -> str:
    """Without characters that steer terminals, turn the direction of text or cannot stand in a page."""
    kept = "".join(c for c in text[: longest + 1] if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return kept[:longest] + (" …" if len(text) > longest else "")

"""What models are asked for: kinds of work that differ in what they cost, each with distinct prompts from one seed.

`chat` is short in and short out; `long-prompt` measures prefill, `long-answer` decode; `code`, `rewrite`, `structured`
and `retrieval` have the shape of those tasks; `course` is the four questions of the course, word for word, in Danish
and in English; `own` stands for prompts from a file. What the answers are worth is not looked at here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping

import msgspec

from localfoundry.bench.prompts import description, plain_words, topic
from localfoundry.errors import InvalidRequest
from localfoundry.prompts import course

OWN = "own"
_COLD_TOKENS = 16  # enough to see that it answers; what is measured is the first one


class Scenario(msgspec.Struct, frozen=True):
    """A kind of work. `words` is the length of a prompt, `tokens` that of an answer unless something else is asked for.

    `texts` are fixed prompts by language; where there are none, `write(draw, words)` makes one. In a round each fixed
    prompt is asked once.
    """

    name: str
    what: str
    tokens: int
    words: int = 60
    write: Callable[[random.Random, int], str] = description
    texts: Mapping[str, tuple[str, ...]] = {}
    parameters: dict[str, object] = {}

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.texts) or ("en",)

    def prompts_in(self, language: str) -> int:
        """How many requests one round at one stream has."""
        return len(self.texts[language]) if self.texts else 1

    def text(self, language: str, seed: int, round_number: int, seq: int, words: int | None = None) -> str:
        """The prompt at a place, without its nonce."""
        if self.texts:
            fixed = self.texts[language]
            return fixed[seq % len(fixed)]
        # The first of a round depends on seed and round alone, as it always has: figures of then and now compare.
        place = f"{seed}/{round_number}" + (f"/{seq}" if seq else "")
        return self.write(random.Random(place), (words or self.words) - 1)


def _long_prompt(draw: random.Random, words: int) -> str:
    opening = f"These are notes on {topic(draw)}."
    closing = "Say in one sentence what the notes are about."
    return " ".join([opening, *plain_words(draw, words - len(f"{opening} {closing}".split())), closing])


def _long_answer(draw: random.Random, words: int) -> str:
    opening = f"Write a long story about {topic(draw)}, at least ten paragraphs, using these words:"
    return " ".join([opening, *plain_words(draw, words - len(opening.split()))])


_TASKS = (
    "sorts a list of records by several keys", "finds the shortest path in a weighted graph",
    "parses dates in three formats", "merges overlapping intervals", "counts words in a large file",
    "caches results with a time limit", "validates an IBAN", "groups anagrams", "reads a CSV file into dictionaries",
)  # fmt: skip


def _code(draw: random.Random, words: int) -> str:
    opening = (
        f"Write a Python function that {draw.choice(_TASKS)}, with type hints and a docstring. Name its parameters:"
    )
    return " ".join([opening, *plain_words(draw, min(words - len(opening.split()), 12))])


_WORDS = ("price", "count", "weight", "size", "rate", "score", "total", "limit")


def _rewrite(draw: random.Random, words: int) -> str:
    """A Python class to be written again with one name changed: most of the answer stands in the prompt."""
    names = draw.sample(_WORDS, k=6)
    lines = [f"class Record{draw.randint(10, 99)}:"]
    for place in range(max(round((words - 19) / 24), 2)):  # 24 words each
        first, second = names[place % 6], names[(place + 1) % 6]
        lines += [
            f"    def {first}_of_{place}(self, items):",
            "        result = 0",
            "        for item in items:",
            f"            if item.{second} is not None:",
            f"                result = result + item.{first} * item.{second}",
            "        return result",
        ]
    text = "\n".join(lines)
    asked = "Write this Python class again with the variable `result` called `value`, and change nothing else."
    return f"{asked}\n```python\n{text}\n```"


_PEOPLE = ("Anna Lund", "Bo Madsen", "Clara Friis", "David Holm", "Eva Krogh", "Finn Dahl")


def _structured(draw: random.Random, words: int) -> str:
    order = (
        f"Take the order out of this message as JSON. {draw.choice(_PEOPLE)} wants {draw.randint(2, 90)} boxes of "
        f"{draw.choice(('paper', 'tea', 'screws', 'apples'))} by {draw.randint(1, 28)}.{draw.randint(1, 12)}.2026, "
        f"to {draw.choice(('Aarhus', 'Odense', 'Ribe', 'Skagen'))}. The message goes on:"
    )
    return " ".join([order, *plain_words(draw, words - len(order.split()))])


_ORDER_SCHEMA = json.loads("""{
    "type": "object",
    "properties": {"customer": {"type": "string"}, "item": {"type": "string"}, "boxes": {"type": "integer"},
                   "date": {"type": "string"}, "city": {"type": "string"}},
    "required": ["customer", "item", "boxes", "date", "city"],
    "additionalProperties": false
}""")


def _retrieval(draw: random.Random, words: int) -> str:
    asked = draw.randrange(8)
    numbers = [draw.randint(100, 999) for _ in range(8)]
    each = max((words - 30) // 8 - 8, 5)
    passages = [
        f"[{place + 1}] {' '.join(plain_words(draw, each))}. Room {place + 1} has the number {number}."
        for place, number in enumerate(numbers)
    ]
    question = f"Answer from these passages only, and name the passage: which number has room {asked + 1}?"
    return "\n".join([*passages, question])


_COURSE = {language: tuple(texts.values()) for language, texts in course.QUESTIONS.items()}

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("chat", "short in, short out", 64),
        Scenario("long-prompt", "1,200 words in, short out: prefill", 32, 1200, _long_prompt),
        Scenario("long-answer", "short in, 512 tokens out: decode", 512, 60, _long_answer),
        Scenario("code", "a Python function", 256, 60, _code),
        Scenario("rewrite", "code to write again with a name changed: answers repeat their prompt", 192, 120, _rewrite),
        Scenario(
            "structured", "JSON that a schema constrains", 128, 80, _structured,
            parameters={"response_format": {
                "type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": _ORDER_SCHEMA},
            }},
        ),
        Scenario("retrieval", "a question to 600 words of passages", 96, 600, _retrieval),
        Scenario("course", "the course's four questions, in Danish and English", 128, texts=_COURSE),
    )
}  # fmt: skip


def find(name: str, own: tuple[str, ...] = ()) -> Scenario:
    """The scenario of that name; `own` are the prompts of a file. Raises InvalidRequest."""
    if name == OWN and own:
        return Scenario(OWN, "prompts from a file", 64, texts={"own": own})
    if name in ("cold", "switch"):
        return Scenario(name, "the first token after a start, or after another model", _COLD_TOKENS)
    try:
        return SCENARIOS[name]
    except KeyError:
        raise InvalidRequest(
            f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}", param="scenario"
        ) from None

"""Texts to look for a needle in: sentences of a quiet chronicle, the same for every model and on every machine.

A haystack of N tokens is about N tokens long for the starter model: its length is counted in characters, since the same
prompt has to go to models with different tokenizers. Those with a larger vocabulary count fewer, in Danish markedly;
results hold what each one counted.
Sentences are drawn from ours by a seed. They repeat in long texts, with other names and years, so the needle is the
only sentence that is not of their kind; `needles` of an item can hold near misses to make it harder.
"""

from __future__ import annotations

import random
from functools import cache
from importlib import resources

import msgspec

from localfoundry.quality import bounded_yaml
from localfoundry.quality.suite import Haystack, Language

# Characters per token of these texts by SmolLM2's tokenizer: 8,869 / 2,093 and 5,458 / 2,324.
CHARACTERS_PER_TOKEN: dict[Language, float] = {"en": 4.24, "da": 2.35}


class _Chronicle(msgspec.Struct, forbid_unknown_fields=True):
    """`sentences` may hold {name}, {place}, {year} and {count}, which are drawn from the lists and from numbers."""

    names: list[str]
    places: list[str]
    sentences: list[str]


def text(haystack: Haystack, language: Language) -> str:
    """The text with its needles, each before the sentence at its share of the length."""
    sentences = _sentences(haystack, language)
    marks = sorted(((needle.depth, -index) for index, needle in enumerate(haystack.needles)), reverse=True)
    for depth, index in marks:
        sentences.insert(round(depth * len(sentences)), haystack.needles[-index].text.strip())
    return _paragraphs(sentences)


def _sentences(haystack: Haystack, language: Language) -> list[str]:
    chronicle = _chronicle(language)
    draw = random.Random(f"{language}/{haystack.seed}")
    wanted = haystack.tokens * CHARACTERS_PER_TOKEN[language] - sum(len(needle.text) for needle in haystack.needles)
    found: list[str] = []
    pool: list[str] = []
    used = 0
    while used < wanted:
        if not pool:
            pool = list(chronicle.sentences)
            draw.shuffle(pool)
        sentence = pool.pop().format(
            name=draw.choice(chronicle.names),
            place=draw.choice(chronicle.places),
            year=draw.randrange(1850, 1990),
            count=draw.randrange(3, 60),
        )
        found.append(sentence)
        used += len(sentence) + 1
    return found


def _paragraphs(sentences: list[str], size: int = 8) -> str:
    return "\n\n".join(" ".join(sentences[start : start + size]) for start in range(0, len(sentences), size))


@cache
def _chronicle(language: Language) -> _Chronicle:
    file = resources.files("localfoundry.quality") / "packs" / f"chronicle-{language}.yaml"
    return msgspec.convert(bounded_yaml.parse(file.read_bytes(), file.name), _Chronicle)

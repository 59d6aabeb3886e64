"""Prompts for measuring: distinct, of a chosen length, and the same for every candidate.

A nonce of nine digits leads each prompt, so that no prefix cache can answer for the model; digits, because they take
the same number of tokens whatever their value in the tokenizers at hand. The text behind the nonce depends on the seed
and on the prompt's place in the measurement, and not on the load: at every load the same texts are asked for.
Trade-off: the text is plain and says little, as what is measured is speed.
"""

from __future__ import annotations

import hashlib
import random

_TOPICS = (
    "the harvest", "a small harbour", "the night train", "an old observatory", "the city library", "a mountain road",
    "the repair shop", "a school garden", "the river ferry", "a weather station", "the village bakery", "a paper mill",
)  # fmt: skip
_TEXT = (
    "after before people often keep careful notes about what they see and hear while the work goes on slowly through "
    "winter and spring because small changes in water light or wind can decide how much is left for others when the "
    "season ends and nobody wants to begin again with empty hands or broken tools in a cold room near the quiet road"
)


def prompt(nonce: str, seed: int, round_number: int, twin: int = 0, words: int = 60) -> str:
    """The prompt of one round: about `words` words.

    `twin` counts candidates that share one model: they get another nonce and otherwise the same text, since with the
    same nonce the second of them would be answered from the first one's cache.
    """
    text = description(random.Random(f"{seed}/{round_number}"), words - 1)
    return f"{mark(nonce, str(round_number), twin)}. {text}"


def mark(nonce: str, place: str, twin: int = 0) -> str:
    """Nine digits that no other place in this measurement has, nor the same place in another one."""
    digest = hashlib.sha256(f"{nonce}/{place}/{twin}".encode()).digest()
    return str(100_000_000 + int.from_bytes(digest[:8], "big") % 900_000_000)


def description(draw: random.Random, words: int) -> str:
    """A request to describe something, with words to use, in about `words` words."""
    opening = f"Write a detailed description of {draw.choice(_TOPICS)}, using these words:"
    return " ".join([opening, *plain_words(draw, words - len(opening.split()))])


def topic(draw: random.Random) -> str:
    return draw.choice(_TOPICS)


def plain_words(draw: random.Random, count: int) -> list[str]:
    return draw.choices(_TEXT.split(), k=max(count, 0))

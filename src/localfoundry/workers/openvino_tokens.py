"""Texts as tokens, by the tokenizer that OpenVINO runs as a graph."""

from __future__ import annotations

from typing import Any

from localfoundry.workers.generation import Vocabulary
from localfoundry.workers.vocabulary import of_entries

_MOST_SLICE = 4096  # characters
_TOKENS_PER_CHARACTER = 4  # at most: a character that the vocabulary lacks becomes its bytes


class Tokens:
    """`tokenizer` is `openvino_genai.Tokenizer`; `context`: as many tokens as are of use."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self._tokenizer = tokenizer
        # As many tokens as the library gives of one text, or more than would be of use.
        self._most = len(self._encode(" a" * (2 * context + 1_000), False))
        self._slice = max(min(_MOST_SLICE, self._most // _TOKENS_PER_CHARACTER), 1)

    def encode(self, text: str, special: bool) -> list[int]:
        """In slices where a text is long: the library cuts what is longer than the model's own context in silence."""
        if not text:
            return self._encode(text, special) if special else []
        tokens = self._encode(text, special)
        if len(tokens) < self._most:
            return tokens
        tokens = []
        for part in _slices(text, self._slice):
            tokens += self._encode(part, special and not tokens)
        return tokens

    def _encode(self, text: str, special: bool) -> list[int]:
        encoded = self._tokenizer.encode(text, add_special_tokens=special)
        tokens: list[int] = encoded.input_ids.data[0].tolist()
        return tokens

    def vocabulary(self, stops: set[int]) -> Vocabulary:
        """`stops`: tokens that end an answer, beside the tokenizer's own."""
        tokenizer = self._tokenizer
        return of_entries(
            {token: piece for piece, token in tokenizer.get_vocab().items()},
            hidden=lambda token: not tokenizer.decode([token], skip_special_tokens=True),
            ends={tokenizer.get_eos_token_id(), *stops},
            bos=tokenizer.get_bos_token(),
            eos=tokenizer.get_eos_token(),
        )


def _slices(text: str, size: int) -> list[str]:
    """Parts that are tokenized alike alone: cut before a space between two letters, where no tokenizer joins them."""
    parts = []
    start = 0
    while len(text) - start > size:
        end = start + size
        while end > start + 1 and not (
            text[end] == " " and text[end - 1].isalpha() and text[end + 1 : end + 2].isalpha()
        ):
            end -= 1
        if end == start + 1:  # nowhere: then anywhere
            end = start + size
        parts.append(text[start:end])
        start = end
    parts.append(text[start:])
    return parts

"""Which beginnings of prompts a paged cache still knows, where the library does not tell how much it took from it.

A library with prefix caching keeps whole blocks of tokens by everything that leads up to them, the most recently used
ones of as many as there is room for. This keeps the same book beside it. It counts whole blocks only, and gives up a
few sooner than the library: a count from here may be too low, and is too high only if the library forgets in another
order.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence


class Prefixes:
    """`block` tokens to a block, `room` for so many blocks; 0: nothing is kept."""

    def __init__(self, block: int, room: int) -> None:
        self._block = block
        self._room = room
        self._known: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._tokens: dict[int, list[int]] = {}
        self._computed: set[int] = set()  # whose prompt is in the cache

    def begin(self, request: int, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt need no work: the last one always does."""
        self._tokens[request] = list(prompt)
        count = 0
        for key in self._keys(prompt):
            if key not in self._known:
                break
            self._known.move_to_end(key)
            count += self._block
        return min(count, len(prompt) - 1)

    def grow(self, request: int, tokens: Sequence[int]) -> None:
        """Tokens that were generated; the first of them says that the prompt has been computed."""
        known = self._tokens[request]
        if request not in self._computed:
            self._computed.add(request)
            self._keep(known)
        known += tokens

    def end(self, request: int) -> None:
        tokens = self._tokens.pop(request)
        if request in self._computed:
            self._computed.remove(request)
            self._keep(tokens[:-1])  # the last token is never computed

    def _keep(self, tokens: Sequence[int]) -> None:
        for key in self._keys(tokens):
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > self._room:
            self._known.popitem(last=False)

    def _keys(self, tokens: Sequence[int]) -> list[int]:
        """One key for each whole block, of all tokens up to its end."""
        keys = []
        key = 0
        for end in range(self._block, len(tokens) + 1, self._block):
            key = hash((key, tuple(tokens[end - self._block : end])))
            keys.append(key)
        return keys

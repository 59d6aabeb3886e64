"""Texts of a GGUF's vocabulary, looked up without building it: a few tokens by number, or whether a text is one.

A quarter of a million strings would be objects of 20 MB for a handful of answers. Instead the array's bytes are walked
once up to the highest number wanted, and searched for an exact entry.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

from localfoundry.errors import NotAModel
from localfoundry.formats.cursor import MAX_HEADER_BYTES, Read
from localfoundry.formats.gguf import GgufHeader, LongArray

_MAX_TOKEN_BYTES = 4096  # of a text that is shown; the longest special tokens have about 40


class Vocabulary:
    """The texts of the array `table` behind `read`. Reads all of it at once, at most `MAX_HEADER_BYTES`."""

    def __init__(self, read: Read, table: LongArray) -> None:
        if table.size_bytes > MAX_HEADER_BYTES:
            raise NotAModel(f"damaged GGUF file: a vocabulary of {table.size_bytes:,} bytes")
        self._count = table.count
        self._raw = read(table.offset, table.size_bytes)

    def __contains__(self, text: object) -> bool:
        """Whether `text` is a token: its length and bytes stand somewhere in the array."""
        raw = str(text).encode()
        return struct.pack("<Q", len(raw)) + raw in self._raw

    def texts(self, numbers: Iterable[int]) -> dict[int, str]:
        """Texts by number; a number past the end is left out."""
        wanted = {n for n in numbers if 0 <= n < self._count}
        found: dict[int, str] = {}
        raw, at, end, length_at = self._raw, 0, len(self._raw), struct.Struct("<Q").unpack_from
        for number in range(max(wanted, default=-1) + 1):
            if at + 8 > end:
                break
            (size,) = length_at(raw, at)
            if number in wanted and size <= _MAX_TOKEN_BYTES:
                found[number] = raw[at + 8 : at + 8 + size].decode("utf-8", "replace")
            at += 8 + size
        return found


def special_tokens(header: GgufHeader, vocabulary: Vocabulary) -> dict[str, str]:
    """Texts of the tokens that the header names: bos, eos, eot, eom, unknown, padding."""
    texts = vocabulary.texts(header.token_ids.values())
    return {name: texts[number] for name, number in header.token_ids.items() if number in texts}


def sha256_of_tokens(path: Path, header: GgufHeader) -> str | None:
    """The sum of all texts of a file's vocabulary, each followed by a zero byte; None where there are none."""
    if header.tokens is None or header.tokens.size_bytes > MAX_HEADER_BYTES:
        return None
    with path.open("rb") as file:
        file.seek(header.tokens.offset)
        raw = file.read(header.tokens.size_bytes)
    digest, at = hashlib.sha256(), 0
    for _ in range(header.tokens.count):
        (size,) = struct.unpack_from("<Q", raw, at)
        digest.update(raw[at + 8 : at + 8 + size] + b"\0")
        at += 8 + size
    return digest.hexdigest()

"""Whether two GGUF files have one vocabulary, so that tokens of one model mean the same to the other.

By what the headers say and not by names: the kind of tokenizer, how texts are split before it, the special tokens by
number, and every text. The tables of one family may end in a different number of unused tokens, to fill a matrix.
"""

from __future__ import annotations

from pathlib import Path

from localfoundry.errors import NotAModel
from localfoundry.formats.cursor import MAX_HEADER_BYTES
from localfoundry.formats.gguf import GgufHeader, LongArray, read_gguf

MOST_MORE = 128  # tokens that one table may have beyond the other; llama.cpp's own bound (common/speculative.cpp)
_SPECIAL = ("bos", "eos", "eot", "eom")


def differ(one: Path, other: Path) -> str | None:
    """In what the vocabularies of two files differ, in a few words; None: they are one.

    Reads headers and the tables of texts, a few MB of each. Raises NotAModel, DiskError.
    """
    a, b = read_gguf(one), read_gguf(other)
    if a.tokens is None or b.tokens is None:
        return "a file without a vocabulary"
    if (a.tokenizer, a.splitting) != (b.tokenizer, b.splitting):
        return f"the tokenizers {_tokenizer(a)} and {_tokenizer(b)}"
    ids = [(name, a.token_ids.get(name), b.token_ids.get(name)) for name in _SPECIAL]
    if a.adds_bos != b.adds_bos or any(mine != its for _, mine, its in ids):
        return "other special tokens: " + (
            ", ".join(f"{n} {x} and {y}" for n, x, y in ids if x != y) or "begin of text"
        )
    if abs(a.tokens.count - b.tokens.count) > MOST_MORE:
        return f"{a.tokens.count:,} and {b.tokens.count:,} tokens"
    shorter, longer = sorted((_texts(one, a.tokens), _texts(other, b.tokens)), key=len)
    return None if longer.startswith(shorter) else "tokens with other texts"


def _tokenizer(header: GgufHeader) -> str:
    return "/".join(word for word in (header.tokenizer, header.splitting) if word) or "of no name"


def _texts(path: Path, table: LongArray) -> bytes:
    """The table as it is in the file: equal tables are equal bytes."""
    if table.size_bytes > MAX_HEADER_BYTES:
        raise NotAModel(f"damaged GGUF file: a vocabulary of {table.size_bytes:,} bytes")
    with path.open("rb") as file:
        file.seek(table.offset)
        return file.read(table.size_bytes)

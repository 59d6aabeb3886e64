"""The first part of a GGUF file as bytes, for writing another file with the same metadata.

`gguf.py` reads what a header says; this finds the bytes that say it, so that they can be copied as they are: tokens,
merges and templates are megabytes that nobody needs to build. Used after `gguf.py` has accepted the file.
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from localfoundry.formats.cursor import Cursor, Read, of_file
from localfoundry.formats.gguf import MAX_KEY_BYTES, MAX_KEYS, MAX_TENSORS, read_preamble, read_value

_DEFAULT_ALIGNMENT = 32
_NUMBER_BYTES = 8  # of a 32-bit number with its type in front


class Head(msgspec.Struct, frozen=True):
    """Magic, counts and metadata: all before the list of tensors. `alignment`: of the tensors' data, in bytes."""

    data: bytes
    alignment: int


def read_head(path: Path, file_type: int) -> Head:
    """The head of a file, where it says its type with another number for that. Raises NotAModel, DiskError."""
    return of_file(path, lambda read, _: _head(read, file_type))


def _head(read: Read, file_type: int) -> Head:
    cursor = Cursor(read)
    read_preamble(cursor)
    cursor.length(MAX_TENSORS, "the number of tensors")
    keys = cursor.length(MAX_KEYS, "the number of keys")
    alignment, place = _DEFAULT_ALIGNMENT, None
    for _ in range(keys):
        key = cursor.string(MAX_KEY_BYTES, "a key")
        begin = cursor.offset
        value = read_value(cursor, key[:64].decode("utf-8", "replace"))
        if key == b"general.alignment":
            alignment = int(value)
        elif key == b"general.file_type" and cursor.offset - begin == _NUMBER_BYTES:
            place = cursor.offset - 4
    data = bytearray(read(0, cursor.offset))  # at most MAX_HEADER_BYTES: the cursor has passed no more
    if place is not None:
        struct.pack_into("<I", data, place, file_type)
    return Head(bytes(data), alignment)

"""Reading forward through an untrusted GGUF header, within bounds.

`Cursor` is the only thing that touches the bytes: it never passes the end of the file or `MAX_HEADER_BYTES`, and it
asks for large pieces, since each may be a request over the network. What the values mean is `gguf.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from localfoundry.errors import DiskError, NotAModel

MAX_HEADER_BYTES = 64 * 2**20  # the largest vocabularies in use make headers of about 16 MiB
MAX_STRING_BYTES = 16 * 2**20
MAX_STRINGS = 4 * 2**20  # in all arrays together
MAX_KEPT_NUMBERS = 2**18  # in all arrays together: a byte of the file becomes an object of 8 or more

_WINDOW_BYTES = 2**20
_T = TypeVar("_T")

Read = Callable[[int, int], bytes]
"""`read(offset, size)` gives `size` bytes from `offset`, or fewer where the file ends."""


class Cursor:
    """Reads forward through a window, never past the end of the file or the limit of a header."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._window = b""
        self._start = 0
        self.offset = 0
        self.strings_left = MAX_STRINGS
        self.numbers_left = MAX_KEPT_NUMBERS

    def take(self, size: int) -> bytes:
        self._require(size)
        begin = self.offset - self._start
        self.offset += size
        return self._window[begin : begin + size]

    def skip(self, size: int) -> None:
        self._limit(size)
        self.offset += size

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def length(self, limit: int, what: str) -> int:
        """A 64-bit count, refused above `limit`."""
        count: int = self.number("Q")
        if count > limit:
            raise NotAModel(f"damaged GGUF file: {what} is {count:,}, at most {limit:,} is accepted")
        return count

    def string(self, limit: int, what: str) -> bytes:
        return self.take(self.length(limit, f"the length of {what}"))

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings. This is most of the work in a real header, so it stays within the window."""
        self.strings_left -= count
        if self.strings_left < 0:
            raise NotAModel(f"damaged GGUF file: more than {MAX_STRINGS:,} strings in arrays")
        length_at = struct.Struct("<Q").unpack_from
        while count:
            self._require(8)
            window, at, end = self._window, self.offset - self._start, len(self._window)
            while count and at + 8 <= end:
                (size,) = length_at(window, at)
                if size > MAX_STRING_BYTES:
                    raise NotAModel(f"damaged GGUF file: a string of {size:,} bytes in an array")
                at += 8 + size
                count -= 1
            self._limit(at + self._start - self.offset)
            self.offset = at + self._start

    def _limit(self, size: int) -> None:
        if self.offset + size > MAX_HEADER_BYTES:
            raise NotAModel(f"damaged GGUF file: its header passes {MAX_HEADER_BYTES:,} bytes")

    def _require(self, size: int) -> None:
        """Have `size` bytes from the offset in the window."""
        self._limit(size)
        if self._start <= self.offset and self.offset + size <= self._start + len(self._window):
            return
        self._start = self.offset
        self._window = self._read(self.offset, max(size, _WINDOW_BYTES))
        if len(self._window) < size:
            raise NotAModel(f"GGUF file is cut short: it ends within its header, at byte {self._start:,}")


def of_file(path: Path, header: Callable[[Read, int], _T]) -> _T:
    """What `header` reads from a file on disk. Raises NotAModel with the name of the file, and DiskError."""
    try:
        with path.open("rb") as file:

            def read(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(size)

            return header(read, path.stat().st_size)
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
    except NotAModel as exc:
        raise NotAModel(f"{path.name}: {exc.message}", hint=exc.hint) from exc

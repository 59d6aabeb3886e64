"""A download on the disk that is not whole yet, and what is known to be right of it.

`<key>.part` holds the bytes, `<key>.jsonl` a first line that says what is being fetched and then one line for each
finished chunk with its SHA-256. A line is appended only after its chunk was written, so a process killed at any
point leaves at most one chunk that nobody vouches for. On the way back in every finished chunk is read and hashed
again; the first bad one and all after it are dropped. That costs about a second per GB, and it is why a partial that
a crash, a full disk or a bad cable damaged costs a chunk and not the whole file.

No fsync on the way: what a power failure loses, the check on resume finds. The address is not part of the journal:
signed addresses expire, and a mirror may deliver the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from localfoundry.store import disk

CHUNK_BYTES = 8 * 1024 * 1024


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is being fetched. `total` in bytes; `etag` is the server's, as sent."""

    name: str
    total: int | None = None
    etag: str | None = None
    sha256: str | None = None
    chunk_bytes: int = CHUNK_BYTES


class Line(msgspec.Struct, frozen=True):
    """A finished chunk: only the last one of a file is shorter than the others."""

    size: int
    sha256: str


def read_head(path: Path) -> Head | None:
    """What the journal says is being fetched; None where it cannot be read."""
    head, _ = _read(path)
    return head


def _read(path: Path) -> tuple[Head | None, list[Line]]:
    """The journal as far as it can be read: a damaged line ends it."""
    try:
        first, *rest = path.read_bytes().split(b"\n")
        head = msgspec.json.decode(first, type=Head)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None, []
    lines: list[Line] = []
    with contextlib.suppress(msgspec.MsgspecError):
        # What follows the last line end was cut off while it was written.
        lines.extend(msgspec.json.decode(text, type=Line) for text in rest[:-1])
    return head, lines


class PartFile:
    """The partial of one download, open for appending. Blocking: call it from a thread.

    `size` bytes are there and in `whole`, the running SHA-256; the caller holds the lock of the partial.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self.head = head
        self.size = 0
        self.whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._in_chunk = 0
        self._stream: BinaryIO | None = None

    def __enter__(self) -> PartFile:
        """Open, check what an earlier process left, and drop what cannot be vouched for. Raises DiskError."""
        with disk.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)), "r+b", 0)
            head, lines = _read(self._journal)
            kept: list[Line] = []
            if head is not None and self._same(head):
                self.head = msgspec.structs.replace(
                    self.head, etag=head.etag, total=self.head.total if self.head.total is not None else head.total
                )
                kept = self._check(lines)
            self._stream.truncate(self.size)
            self._write_journal(kept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    @property
    def _journal(self) -> Path:
        return self.path.with_suffix(".jsonl")

    def _same(self, head: Head) -> bool:
        ours = self.head
        return (
            head.chunk_bytes == ours.chunk_bytes
            and head.sha256 == ours.sha256
            and (ours.total is None or head.total is None or head.total == ours.total)
        )

    def _check(self, lines: list[Line]) -> list[Line]:
        """Read the finished chunks again; returns those before the first bad one."""
        assert self._stream is not None
        kept: list[Line] = []
        for line in lines:
            if not 0 < line.size <= self.head.chunk_bytes:
                break
            data = self._stream.read(line.size)
            while len(data) < line.size and (more := self._stream.read(line.size - len(data))):
                data += more
            if len(data) != line.size or hashlib.sha256(data).hexdigest() != line.sha256:
                break
            if self.head.total is not None and self.size + line.size > self.head.total:
                break
            self.whole.update(data)
            self.size += line.size
            kept.append(line)
            if line.size < self.head.chunk_bytes:
                break  # a short chunk is the last one
        return kept

    def restart(self, total: int | None, etag: str | None) -> None:
        """Forget everything that is there: the server delivers from the first byte, or something else than before."""
        self.size = self._in_chunk = 0
        self.whole, self._chunk = hashlib.sha256(), hashlib.sha256()
        self.head = msgspec.structs.replace(self.head, total=total, etag=etag)
        with disk.writing(self.path):
            assert self._stream is not None
            self._stream.seek(0)
            self._stream.truncate(0)
            self._write_journal([])

    def append(self, data: bytes | bytearray) -> None:
        """Write the next bytes and note each chunk that they finish. Raises DiskFull or DiskError; `size` is true."""
        view = memoryview(data)
        while view:
            piece = view[: self.head.chunk_bytes - self._in_chunk]
            with disk.writing(self.path):
                self._write(piece)
            self.whole.update(piece)
            self._chunk.update(piece)
            self._in_chunk += len(piece)
            self.size += len(piece)
            if self._in_chunk == self.head.chunk_bytes:
                self._note()
            view = view[len(piece) :]

    def finish(self) -> str:
        """Put the bytes on the disk for good and return their SHA-256. Raises DiskError."""
        with disk.writing(self.path):
            if self._in_chunk:
                self._note()
            assert self._stream is not None
            os.fsync(self._stream.fileno())
        return self.whole.hexdigest()

    def remove(self) -> None:
        """Close and delete partial and journal."""
        self.__exit__(None, None, None)
        disk.remove_file(self.path)
        disk.remove_file(self._journal)

    def _write(self, piece: memoryview) -> None:
        assert self._stream is not None
        self._stream.seek(self.size)  # after a failed write the file may be longer than what we vouch for
        while piece:
            piece = piece[self._stream.write(piece) :]

    def _note(self) -> None:
        line = msgspec.json.encode(Line(self._in_chunk, self._chunk.hexdigest())) + b"\n"
        with disk.writing(self._journal), self._journal.open("ab") as stream:
            stream.write(line)
        self._chunk, self._in_chunk = hashlib.sha256(), 0

    def _write_journal(self, lines: list[Line]) -> None:
        text = b"".join(msgspec.json.encode(entry) + b"\n" for entry in (self.head, *lines))
        fresh = self._journal.with_suffix(".new")
        fresh.write_bytes(text)
        fresh.replace(self._journal)

"""A download on the disk that is not whole yet, and what is known to be right of it.

`<key>.part` holds the bytes, each at its place in the file, with holes where nothing has arrived. `<key>.jsonl` has a
first line that says what is being fetched and then one line for each chunk with its SHA-256, in the order in which
they were finished. A line is appended only after its bytes were written, so a process killed at any point leaves at
most one chunk per connection that nobody vouches for; one that ends in an orderly way vouches for its unfinished
chunks too, with a line that is shorter than the chunk. On the way back in every chunk is read and hashed again and
the bad ones are dropped, each alone. That costs about a second per GB, and it is why a partial that a crash, a full
disk or a bad cable damaged costs a chunk and not the whole file.

The SHA-256 of the whole is made on the way, in file order: bytes that arrive where it stands are hashed from memory,
others are read back, from the page cache as a rule, when it gets there. So nothing is read a second time at the end.

No fsync on the way: what a power failure loses, the check on resume finds. The address is not part of the journal:
signed addresses expire, and a mirror may deliver the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from localfoundry.errors import DiskError
from localfoundry.store import disk

CHUNK_BYTES = 8 * 1024 * 1024
_READ_BYTES = 1024 * 1024


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is being fetched. `total` in bytes; `etag` is the server's, as sent."""

    name: str
    total: int | None = None
    etag: str | None = None
    sha256: str | None = None
    chunk_bytes: int = CHUNK_BYTES


class Line(msgspec.Struct, frozen=True):
    """The first `size` bytes of chunk `index` are there and have this sum; a later line of the chunk replaces it."""

    index: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks that one connection fetches in one request: the bytes from `start` to before `end`.

    `end` is None where the size of the file is unknown. `chunks` are what no other connection may take meanwhile.
    """

    start: int
    end: int | None
    chunks: range


class _Chunk:
    """A chunk that is arriving: so many bytes of it are written, and in `sha256`."""

    def __init__(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()


def read_head(path: Path) -> Head | None:
    """What the journal says is being fetched; None where it cannot be read."""
    head, _ = _read(path)
    return head


def vouched_bytes(path: Path) -> int:
    """Bytes that the journal vouches for; they are checked when the download goes on. 0 where it cannot be read."""
    _, lines = _read(path)
    return sum(line.size for line in lines.values())


def chunk_list(lines: dict[int, Line], chunk_bytes: int) -> bytes:
    """The sums of all chunks of a whole file, as kept beside its blob: JSON with `chunk_bytes` and `sha256`."""
    sums = [lines[index].sha256 for index in sorted(lines)]
    return msgspec.json.encode({"chunk_bytes": chunk_bytes, "sha256": sums}) + b"\n"


def next_run(missing: list[int], connections: int, most: int, begun: Container[int] = ()) -> range:
    """Which of the `missing` chunks (ascending, not empty) the next request asks for; at most `most`.

    One that has `begun` to arrive is asked for from where it ended, so a run can start with it and not come to it.

    Half of an equal share, so that requests get shorter towards the end and no connection is left with a long rest
    while the others idle. In file order: what is hashed in order is then still in the page cache.
    """
    share = max(1, min(most, len(missing) // (2 * connections)))
    length = 1
    while length < min(share, len(missing)) and missing[length] == missing[0] + length and missing[length] not in begun:
        length += 1
    return range(missing[0], missing[0] + length)


def _read(path: Path) -> tuple[Head | None, dict[int, Line]]:
    """The journal as far as it can be read: a damaged line ends it."""
    try:
        first, *rest = path.read_bytes().split(b"\n")
        head = msgspec.json.decode(first, type=Head)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None, {}
    lines: dict[int, Line] = {}
    with contextlib.suppress(msgspec.MsgspecError):
        # What follows the last line end was cut off while it was written.
        for text in rest[:-1]:
            line = msgspec.json.decode(text, type=Line)
            if line.index < 0 or not 0 < line.size <= head.chunk_bytes:
                break
            lines[line.index] = line
    return head, lines


class PartFile:
    """The partial of one download, open for writing. The caller holds its lock.

    Blocking: call it from threads, several at once where their runs differ. `restart`, `finish`, `remove` and leaving
    the context want all others to be done.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self.head = head
        self.finished: dict[int, Line] = {}
        self._arriving: dict[int, _Chunk] = {}
        self._taken: set[int] = set()
        self._whole, self._hashed = hashlib.sha256(), 0
        self._state = threading.Lock()  # finished, arriving, the journal
        self._order = threading.Lock()  # the sum of the whole
        self._stream: BinaryIO | None = None

    # Opening: what an earlier process left

    def __enter__(self) -> PartFile:
        """Open, check what an earlier process left, and drop what cannot be vouched for. Raises DiskError."""
        with disk.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)), "r+b", 0)
            head, lines = _read(self._journal)
            if head is not None and self._same(head):
                self.head = msgspec.structs.replace(
                    self.head, etag=head.etag, total=self.head.total if self.head.total is not None else head.total
                )
                self._check(lines)
            self._stream.truncate(self._end())
            self._write_journal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. What arrived of unfinished chunks is vouched for, unless even that cannot be written."""
        if self._stream is not None:
            for index in list(self._arriving):
                with contextlib.suppress(DiskError):
                    self._add_line(self._line(index))
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

    def _check(self, lines: dict[int, Line]) -> None:
        """Read the chunks again and keep those that are what the journal says.

        Without a promised sum only what is there without a gap is kept: the rest then comes in one stream.
        """
        for index in sorted(lines):
            line, gap = lines[index], index * self.head.chunk_bytes > self.size
            if line.size > self._chunk_bytes(index) or (gap and self.head.sha256 is None):
                continue
            chunk = _Chunk()
            for data in self._pieces(index * self.head.chunk_bytes, line.size):
                chunk.sha256.update(data)
                chunk.size += len(data)
            if (chunk.size, chunk.sha256.hexdigest()) != (line.size, line.sha256):
                continue
            if line.size == self._chunk_bytes(index):
                self.finished[index] = line
                self._catch_up()
            else:
                self._arriving[index] = chunk

    # What is there and what is not

    @property
    def size(self) -> int:
        """Bytes that are there."""
        with self._state:
            return sum(line.size for line in self.finished.values()) + sum(c.size for c in self._arriving.values())

    @property
    def is_whole(self) -> bool:
        return self.head.total is not None and self.size == self.head.total

    def take(self, connections: int, most: int) -> Run | None:
        """What a connection should fetch next, kept from the others until `give_back`; None where nothing is left.

        Chunks where size and sum are known; otherwise all that follows what is there.
        """
        with self._state:
            if self.head.total is None or self.head.sha256 is None:
                return self._rest()
            known = self.finished.keys() | self._taken
            missing = [i for i in range(-(-self.head.total // self.head.chunk_bytes)) if i not in known]
            if not missing:
                return None
            chunks = next_run(missing, connections, most, self._arriving)
            self._taken.update(chunks)
            return Run(self._end_of(chunks[0]), min(chunks.stop * self.head.chunk_bytes, self.head.total), chunks)

    def rest(self) -> Run | None:
        """All that follows what is there without a gap, for a server that delivers in one stream only."""
        with self._state:
            return self._rest()

    def give_back(self, run: Run) -> None:
        """Nobody is at this run any more, whatever became of it."""
        with self._state:
            self._taken.difference_update(run.chunks)

    def _rest(self) -> Run | None:
        index = next(i for i in range(len(self.finished) + 1) if i not in self.finished)
        start = self._end_of(index)
        return None if start == self.head.total else Run(start, self.head.total, range(0))

    def _end_of(self, index: int) -> int:
        """Where the next byte of a chunk that is not finished belongs."""
        arriving = self._arriving.get(index)
        start = index * self.head.chunk_bytes + (arriving.size if arriving else 0)
        return start if self.head.total is None else min(start, self.head.total)

    def _end(self) -> int:
        sizes = {i: line.size for i, line in self.finished.items()} | {i: c.size for i, c in self._arriving.items()}
        return max((i * self.head.chunk_bytes + size for i, size in sizes.items()), default=0)

    def _chunk_bytes(self, index: int) -> int:
        """The size of a finished chunk: only the last one is shorter than the others."""
        if self.head.total is None:
            return self.head.chunk_bytes
        return max(0, min(self.head.chunk_bytes, self.head.total - index * self.head.chunk_bytes))

    # Changes

    def learn(self, etag: str | None) -> None:
        """Note the server's name for this state of the file."""
        self.head = msgspec.structs.replace(self.head, etag=etag)
        with disk.writing(self.path), self._state:
            self._write_journal()

    def restart(self, total: int | None, etag: str | None) -> None:
        """Forget everything that is there: the server delivers from the first byte, or something else than before."""
        self.head = msgspec.structs.replace(self.head, total=total, etag=etag)
        self.finished, self._arriving = {}, {}
        self._whole, self._hashed = hashlib.sha256(), 0
        with disk.writing(self.path):
            assert self._stream is not None
            self._stream.truncate(0)
            self._write_journal()

    def write(self, at: int, data: bytes | bytearray) -> None:
        """Write bytes where the last ones of their chunk ended, and note each chunk that they finish.

        Raises DiskFull or DiskError; what `size` then counts is there.
        """
        view = memoryview(data)
        while view:
            index, inside = divmod(at, self.head.chunk_bytes)
            piece = view[: self._chunk_bytes(index) - inside]
            with self._state:
                chunk = self._arriving.setdefault(index, _Chunk())
            assert chunk.size == inside and piece, f"{at} of {self.path} is not where chunk {index} goes on"
            with disk.writing(self.path):
                self._put(at, piece)
            chunk.sha256.update(piece)
            self._hash_in_order(at, piece)
            with self._state:
                chunk.size += len(piece)
            if chunk.size == self._chunk_bytes(index):
                self._note(index)
            at, view = at + len(piece), view[len(piece) :]

    def finish(self) -> str:
        """Put the bytes on the disk for good and return their SHA-256. Raises DiskError."""
        for index in list(self._arriving):  # the last chunk of a file whose size was unknown
            self._note(index)
        with disk.writing(self.path):
            assert self._stream is not None
            os.fsync(self._stream.fileno())
        assert self._hashed == self.size, f"{self._hashed} of {self.size} bytes of {self.path} were hashed"
        return self._whole.hexdigest()

    def remove(self) -> None:
        """Close and delete partial and journal."""
        self._arriving = {}
        self.__exit__(None, None, None)
        disk.remove_file(self.path)
        disk.remove_file(self._journal)

    def _hash_in_order(self, at: int, piece: memoryview) -> None:
        if at != self._hashed:
            return  # read back once it is this chunk's turn; where another thread gets here meanwhile, that too
        with self._order:
            if at == self._hashed:
                self._whole.update(piece)
                self._hashed += len(piece)

    def _catch_up(self) -> None:
        """Hash finished chunks that arrived before their turn."""
        with self._order:
            while line := self.finished.get(self._hashed // self.head.chunk_bytes):
                end = line.index * self.head.chunk_bytes + line.size
                for data in self._pieces(self._hashed, end - self._hashed):
                    self._whole.update(data)
                    self._hashed += len(data)
                if self._hashed < end or line.size < self.head.chunk_bytes:
                    break

    def _note(self, index: int) -> None:
        line = self._line(index)
        with self._state:
            self._add_line(line)
            self.finished[index] = line
            del self._arriving[index]
        self._catch_up()

    def _line(self, index: int) -> Line:
        chunk = self._arriving[index]
        return Line(index, chunk.size, chunk.sha256.hexdigest())

    # The files

    def _put(self, at: int, piece: memoryview) -> None:
        assert self._stream is not None
        while piece:
            if sys.platform == "win32":
                with self._state:
                    self._stream.seek(at)
                    written = self._stream.write(piece)
            else:
                written = os.pwrite(self._stream.fileno(), piece, at)
            at, piece = at + written, piece[written:]

    def _pieces(self, at: int, size: int) -> Iterator[bytes]:
        """Bytes of the partial; fewer where it ends before."""
        assert self._stream is not None
        while size:
            if sys.platform == "win32":
                with self._state:
                    self._stream.seek(at)
                    data = self._stream.read(min(size, _READ_BYTES))
            else:
                data = os.pread(self._stream.fileno(), min(size, _READ_BYTES), at)
            if not data:
                return
            yield data
            at, size = at + len(data), size - len(data)

    def _add_line(self, line: Line) -> None:
        with disk.writing(self._journal), self._journal.open("ab") as stream:
            stream.write(msgspec.json.encode(line) + b"\n")

    def _write_journal(self) -> None:
        entries = [self.head, *self.finished.values(), *map(self._line, self._arriving)]
        fresh = self._journal.with_suffix(".new")
        fresh.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        fresh.replace(self._journal)

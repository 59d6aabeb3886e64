"""Read every byte of versions again and compare it with what their manifests promise.

A blob and the version files that are hard links to it are the same bytes and are read once; a copy (on a file system
without links) is read on its own. Where the sums of a blob's chunks are known, what is damaged is named by offset, and
only that is fetched again (`repair.py`). A healthy blob that has no chunk sums gets them here: they cost nothing more
than the reading that is being done anyway, and the next damage is then a chunk and not a file.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from localfoundry.sources.names import relative_name
from localfoundry.store import disk
from localfoundry.store.journal import CHUNK_BYTES
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Progress, Silent
from localfoundry.store.store import Store, chunks_beside

_PIECE_BYTES = 4 * 1024 * 1024
_MIN_CHUNK_BYTES = 64 * 1024

Problem = Literal["missing", "unreadable", "wrong size", "damaged"]


class ChunkSums(msgspec.Struct, frozen=True):
    """SHA-256 of each `chunk_bytes` of a blob, in order; the last chunk may be shorter."""

    chunk_bytes: int
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: where they begin, how many, and what they must hash to."""

    offset: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Copy:
    """One set of bytes that should be a blob's, and all names it has. `problem` None: it is what was promised.

    `spans` is what is wrong with it, where chunk sums tell; empty: the whole is in doubt.
    """

    paths: tuple[Path, ...]
    problem: Problem | None = None
    detail: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """One content address, the versions that refer to it, and the state of its bytes wherever they are."""

    sha256: str
    name: str
    size_bytes: int
    manifests: tuple[Manifest, ...]
    copies: tuple[Copy, ...]

    @property
    def is_healthy(self) -> bool:
        return all(copy.problem is None for copy in self.copies)

    @property
    def ids(self) -> list[str]:
        return [m.id for m in self.manifests]

    @property
    def bad(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.problem is not None]


def verify(store: Store, manifests: Iterable[Manifest], progress: Progress | None = None) -> list[Checked]:
    """Hash every file of these versions. Blocking, about a second per GB. Never fails for a bad file: it says so."""
    progress = progress or Silent()
    users: dict[str, list[tuple[Manifest, str]]] = {}
    for manifest in manifests:
        for file in manifest.files:
            users.setdefault(file.sha256.lower(), []).append((manifest, file.name))
    return [_checked(store, sha256, found, progress) for sha256, found in users.items()]


def read_sums(store: Store, sha256: str, size_bytes: int) -> ChunkSums | None:
    """The known sums of a blob's chunks; None where there are none that fit it."""
    try:
        sums = msgspec.json.decode(chunks_beside(store.blob(sha256)).read_bytes(), type=ChunkSums)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if sums.chunk_bytes < _MIN_CHUNK_BYTES or len(sums.sha256) != -(-size_bytes // sums.chunk_bytes):
        return None
    return sums


def write_sums(store: Store, sha256: str, sums: ChunkSums) -> None:
    """Keep the sums of a healthy blob's chunks. Best effort: a store that cannot be written works without them."""
    with contextlib.suppress(OSError):
        disk.replace_bytes(chunks_beside(store.blob(sha256)), msgspec.json.encode(sums))


def _checked(store: Store, sha256: str, users: list[tuple[Manifest, str]], progress: Progress) -> Checked:
    name = users[0][1]
    size = next(f.size_bytes for f in users[0][0].files if f.name == name)
    # Adopted files stand in the version's folder alone: a blob is for bytes that nobody else can change.
    adopted = all(f.external for m, n in users for f in m.files if f.name == n)
    paths = [] if adopted else [store.blob(sha256)]
    paths += [store.folder(m) / relative_name(n) for m, n in users]
    copies: list[Copy] = []
    same: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        try:
            info = path.stat()
        except FileNotFoundError:
            copies.append(Copy((path,), "missing"))
        except OSError as exc:
            copies.append(Copy((path,), "unreadable", exc.strerror or str(exc)))
        else:
            same.setdefault((info.st_dev, info.st_ino), []).append(path)
    copies += [_copy(store, sha256, name, size, tuple(names), progress) for names in same.values()]
    manifests = tuple({m.id: m for m, _ in users}.values())
    return Checked(sha256, name, size, manifests, tuple(copies))


def _copy(store: Store, sha256: str, name: str, size: int, paths: tuple[Path, ...], progress: Progress) -> Copy:
    path = paths[0]
    known = read_sums(store, sha256, size)
    progress.start("Checking", name, size)
    try:
        found = path.stat().st_size
        if found != size and known is None:
            return Copy(paths, "wrong size", f"{found} of {size} bytes")
        digest, sums = hash_file(path, progress, with_chunks=known is None or found != size)
        if digest == sha256:
            if known is None and path == store.blob(sha256):
                write_sums(store, sha256, sums)
            return Copy(paths)
        if known is None:
            return Copy(paths, "damaged", "the whole file, as the sums of its chunks are not known")
        if not sums.sha256 or sums.chunk_bytes != known.chunk_bytes:
            _, sums = hash_file(path, progress, with_chunks=True, chunk_bytes=known.chunk_bytes)
        spans = _differing(known, sums, size)
        if found != size:
            return Copy(paths, "wrong size", f"{found} of {size} bytes", spans)
        return Copy(
            paths, "damaged", "" if spans else "the sums of its chunks fit, and that of the whole does not", spans
        )
    except OSError as exc:
        return Copy(paths, "unreadable", exc.strerror or str(exc))


def hash_file(
    path: Path, progress: Progress, *, with_chunks: bool, chunk_bytes: int = CHUNK_BYTES
) -> tuple[str, ChunkSums]:
    """SHA-256 of a file, and of its chunks where they are asked for (else none). Raises OSError."""
    whole, sums, done = hashlib.sha256(), [], 0
    with path.open("rb", buffering=0) as stream:
        while True:
            chunk, taken = hashlib.sha256(), 0
            while taken < chunk_bytes and (data := stream.read(min(_PIECE_BYTES, chunk_bytes - taken))):
                whole.update(data)
                if with_chunks:
                    chunk.update(data)
                taken += len(data)
                progress.position(done + taken)
            if not taken:
                break
            done += taken
            if with_chunks:
                sums.append(chunk.hexdigest())
    return whole.hexdigest(), ChunkSums(chunk_bytes, tuple(sums))


def _differing(known: ChunkSums, found: ChunkSums, size: int) -> tuple[Span, ...]:
    spans = []
    for number, wanted in enumerate(known.sha256):
        if number >= len(found.sha256) or found.sha256[number] != wanted:
            offset = number * known.chunk_bytes
            spans.append(Span(offset, min(known.chunk_bytes, size - offset), wanted))
    return tuple(spans)

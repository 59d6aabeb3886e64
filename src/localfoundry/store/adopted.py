"""Adopted versions after the fact: are their bytes still there, and still the ones that were verified?

| state   | our hard link / reference                    | what it means                                       |
|---------|----------------------------------------------|-----------------------------------------------------|
| shared  | as recorded; the owner has the file too      | the bytes count as the owner's                      |
| kept    | as recorded; the owner removed its name      | our link holds the bytes; they count as ours        |
| changed | size, time or inode differ from the record   | read again before it is loaded; refused if it differs |
| gone    | nothing there                                | refused, naming the owner and what to type          |

A hard link shares later edits, so an adopted file is never a blob: a blob is a promise to every later pull. It stands
in the version's folder alone, and removing the version drops that link and nothing else. An edit that restores size
and time goes unnoticed until `check` reads the file; nothing short of reading everything at each load would see it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localfoundry.errors import DiskError, ModelChanged, ModelGone
from localfoundry.store import disk
from localfoundry.store.manifest import External, Manifest, StoredFile

if TYPE_CHECKING:
    from localfoundry.store.store import Store

_SEEN = ".verified.json"  # in the version's folder: what files looked like when they were last read in full
_COPY_BYTES = 4 * 1024 * 1024
_WORST = ("shared", "kept", "changed", "gone")


class Adoption(msgspec.Struct, frozen=True, rename="camel"):
    """How an adopted version stands. `shared_bytes` are on the disk once for us and the owner."""

    owner: str
    state: str
    paths: tuple[str, ...]  # of the owner's files, or of those that are the reason for the state
    shared_bytes: int

    @property
    def words(self) -> str:
        owner = "you" if self.owner == "file" else self.owner
        return {
            "shared": f"shared with {owner}",
            "kept": f"removed by {owner}, kept here",
            "changed": f"touched by {owner}, read again before it is loaded",
            "gone": f"gone: was owned by {owner}",
        }[self.state]


class _Look(msgspec.Struct, frozen=True):
    """What tells, without reading a file, whether it was touched."""

    size_bytes: int
    mtime_ns: int
    inode: int


def state_of(store: Store, manifest: Manifest) -> Adoption | None:
    """How an adopted version stands, from a look at its files; None for a version of our own."""
    states: list[tuple[str, str, int]] = []
    owner = ""
    seen = _seen(store, manifest)
    for file in manifest.files:
        if file.external is not None:
            owner = file.external.owner
            state = _state(store.folder(manifest) / file.name, file, file.external, seen)
            states.append((state, file.external.path, file.size_bytes if state in ("shared", "changed") else 0))
    if not states:
        return None
    worst = max((s for s, _, _ in states), key=_WORST.index)
    return Adoption(owner, worst, tuple(p for s, p, _ in states if s == worst), sum(n for _, _, n in states))


def check(store: Store, manifest: Manifest) -> None:
    """Before an adopted version is loaded or copied: what was touched is read again. Blocking; seconds per gigabyte.

    Raises ModelGone and ModelChanged, with what to type next. A version of our own passes at once.
    """
    seen = _seen(store, manifest)
    read_again: dict[str, _Look] = {}
    for file in manifest.files:
        if file.external is None:
            continue
        path = store.folder(manifest) / file.name
        look = _look(path)
        if look is None:
            raise ModelGone(
                f"{manifest.id} is gone: {file.external.path} was owned by {file.external.owner}, which removed it",
                hint=f"foundry model download {_again(manifest)}",
                param="model",
            )
        if look in (_recorded(file, file.external), seen.get(file.name)):
            continue
        if look.size_bytes != file.size_bytes or sha256_of(path) != file.sha256:
            raise ModelChanged(
                f"{manifest.id} was changed by {file.external.owner}: {file.external.path} no longer has the SHA-256 "
                f"{file.sha256} that was verified when it was adopted",
                hint=f"foundry cache remove {manifest.id}",
                param="model",
            )
        read_again[file.name] = look
    if read_again:
        _remember(store, manifest, seen | read_again)


def sha256_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """The sum of a file. Raises DiskError."""
    digest, done = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while data := stream.read(_COPY_BYTES):
                digest.update(data)
                done += len(data)
                if report is not None:
                    report(done)
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
    return digest.hexdigest()


def _state(path: Path, file: StoredFile, external: External, seen: dict[str, _Look]) -> str:
    look = _look(path)
    if look is None:
        return "gone"
    if look not in (_recorded(file, external), seen.get(file.name)):
        return "changed"
    if external.linked:
        theirs = _look(Path(external.path))
        return "shared" if theirs is not None and theirs.inode == look.inode else "kept"
    return "shared"


def _look(path: Path) -> _Look | None:
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return _Look(info.st_size, info.st_mtime_ns, info.st_ino)


def _recorded(file: StoredFile, external: External) -> _Look:
    return _Look(file.size_bytes, external.mtime_ns, external.inode)


def _again(manifest: Manifest) -> str:
    """What to download instead: the same repository where it came from one."""
    if manifest.source.startswith("hf:") and manifest.format != "safetensors":
        return manifest.source
    return manifest.alias


def _seen(store: Store, manifest: Manifest) -> dict[str, _Look]:
    if all(f.external is None for f in manifest.files):
        return {}
    try:
        return msgspec.json.decode((store.folder(manifest) / _SEEN).read_bytes(), type=dict[str, _Look])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}  # only a memory of work done: without it the file is read once more


def _remember(store: Store, manifest: Manifest, seen: dict[str, _Look]) -> None:
    path = store.folder(manifest) / _SEEN
    temporary = path.with_name(f"{_SEEN}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a read-only store is read again each time
        temporary.write_bytes(msgspec.json.encode(seen))
        temporary.replace(path)
        disk.sync_folder(path.parent)

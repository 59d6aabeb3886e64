"""Move a store to another folder so that a crash at any moment leaves a whole store where the settings say it is.

    mark the target ──▶ second names (same file system) or verified copies ──▶ switch the setting ──▶ remove the old

Until the setting is switched the old store is whole and in use; after it the new one is. The mark, `moving.json` in
the target, says whose move it is: started again after a kill, what is there already is kept, and what is left of the
old place is removed. A rename of the whole folder would be one step shorter and would leave, for a moment, a setting
that points nowhere.

Only what the store made is touched: other files in the old folder stay where they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localfoundry.errors import ChecksumMismatch, DiskError, DiskFull, UsageError
from localfoundry.store import disk
from localfoundry.store.progress import Progress, Silent
from localfoundry.store.store import Store
from localfoundry.units import format_bytes

_MARK = "moving.json"
_PARTS = ("blobs", "models", "refs", "used", "partial")  # blobs first: versions are then links to the new ones
_OWN = (*_PARTS, "tmp", "store.lock")
_MARGIN_BYTES = 16_000_000
_PIECE_BYTES = 4 * 1024 * 1024


class _Mark(msgspec.Struct, frozen=True):
    source: str


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a move does. `links`: both places are on one file system, and nothing is copied.

    `copy_bytes` is what has still to be copied; `is_switched`: only the old place has to be removed.
    """

    source: Path
    target: Path
    links: bool
    files: tuple[Path, ...]  # relative to the source, in order
    total_bytes: int
    copy_bytes: int
    is_switched: bool = False


def plan_move(store: Store, target: Path) -> MovePlan:
    """What moving the contents to `target` does. Writes nothing.

    Raises UsageError for a folder inside the other, or one that holds other things; DiskFull where the room is too
    small; DiskError.
    """
    source, target = store.root.absolute(), target.absolute()
    unfinished = _marked(target)
    if source == target:
        if unfinished is None:
            raise UsageError(f"the models are in {target} already", hint="foundry cache location")
        return MovePlan(unfinished, target, False, (), 0, 0, is_switched=True)
    if source.resolve() in target.resolve().parents or target.resolve() in source.resolve().parents:
        raise UsageError(f"{target} and {source} are one inside the other", hint="name a folder beside it")
    if unfinished != source and target.exists() and any(not _is_unborn_mark(path) for path in target.iterdir()):
        raise UsageError(f"{target} is not empty", hint="name a new or an empty folder")
    if _in_use(store):
        raise UsageError(f"something is being downloaded to {source}", hint="wait until it is done, or stop it")
    files = tuple(_files(source))
    links = _one_file_system(source, target)
    sizes: dict[tuple[int, int], int] = {}
    missing: dict[tuple[int, int], int] = {}
    for name in files:
        info = (source / name).lstat()
        sizes[info.st_dev, info.st_ino] = info.st_size
        if not _is_there(target / name, name, info):
            missing.setdefault((info.st_dev, info.st_ino), info.st_size)
    copied = 0 if links else sum(missing.values())
    free = disk.free_bytes(target)
    if copied and free is not None and copied + _MARGIN_BYTES > free:
        raise DiskFull(
            f"moving needs {format_bytes(copied + _MARGIN_BYTES)} at {target}, and {format_bytes(free)} are free",
            hint="make room there (or: foundry cache clean), or name another folder",
        )
    return MovePlan(source, target, links, files, sum(sizes.values()), copied)


def execute(plan: MovePlan, switch: Callable[[Path], None], progress: Progress | None = None) -> None:
    """Carry it out; `switch` makes the new place the one that is used. Killed at any step, the same call goes on.

    Raises ChecksumMismatch for a blob that is damaged (the old store stays in use), DiskFull, DiskError.
    """
    progress = progress or Silent()
    if not plan.is_switched:
        with _making(plan.target), Store(plan.source).gate():
            _mark(plan)
            _fill(plan, progress)
            _compare(plan)
            switch(plan.target)
    _remove_old(plan.source)
    with disk.writing(plan.target):
        for path in plan.target.iterdir():
            if _is_unborn_mark(path):
                disk.remove_file(path)
        disk.remove_file(plan.target / _MARK)


@contextlib.contextmanager
def _making(target: Path) -> Iterator[None]:
    with disk.writing(target):
        target.mkdir(parents=True, exist_ok=True)
        yield


def _mark(plan: MovePlan) -> None:
    if _marked(plan.target) != plan.source:
        disk.replace_bytes(plan.target / _MARK, msgspec.json.encode(_Mark(str(plan.source))))


def _marked(target: Path) -> Path | None:
    """Where an unfinished move to `target` came from."""
    try:
        return Path(msgspec.json.decode((target / _MARK).read_bytes(), type=_Mark).source)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _fill(plan: MovePlan, progress: Progress) -> None:
    done = 0

    def report(copied: int) -> None:
        progress.position(done + copied)

    progress.start("Moving", str(plan.target), plan.total_bytes)
    for name in plan.files:
        source, target = plan.source / name, plan.target / name
        info = source.lstat()
        if not _is_there(target, name, info):
            target.parent.mkdir(parents=True, exist_ok=True)
            with disk.writing(target):
                _bring(plan, name, source, target, report)
        if info.st_nlink <= 1 or name.parts[0] == "blobs":
            done += info.st_size
            progress.position(done)
    for folder in {(plan.target / name).parent for name in plan.files}:
        disk.sync_folder(folder)


def _bring(plan: MovePlan, name: Path, source: Path, target: Path, report: Callable[[int], None]) -> None:
    """A second name, a link to the blob that is already there, or a verified copy; in place in one step."""
    fresh = target.with_name(f".{target.name[:100]}.new")
    disk.remove_file(fresh)
    if plan.links:
        disk.link_or_copy(source, fresh)
    elif (blob := _blob_of(plan, source)) is not None:
        disk.link_or_copy(blob, fresh)
    else:
        _copy(name, source, fresh, report)
    fresh.replace(target)


def _blob_of(plan: MovePlan, source: Path) -> Path | None:
    """The new place of the blob that a version's file is a link to."""
    info = source.lstat()
    if info.st_nlink <= 1 or plan.source / "models" not in source.parents:
        return None
    for file in _sums_of(source, plan.source):
        old, new = Store(plan.source).blob(file), Store(plan.target).blob(file)
        if new.exists() and old.exists() and old.samefile(source):
            return new
    return None


def _sums_of(source: Path, root: Path) -> list[str]:
    from localfoundry.store.manifest import Manifest

    version = next(p for p in source.parents if p.parent.parent == root / "models")
    try:
        manifest = msgspec.json.decode((version / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    name = source.relative_to(version).as_posix()
    return [f.sha256 for f in manifest.files if f.name == name]


def _copy(name: Path, source: Path, fresh: Path, report: Callable[[int], None]) -> None:
    digest, done = hashlib.sha256(), 0
    with source.open("rb") as reading, fresh.open("wb") as writing:
        while data := reading.read(_PIECE_BYTES):
            digest.update(data)
            writing.write(data)
            done += len(data)
            report(done)
        writing.flush()
        os.fsync(writing.fileno())
    if name.parts[0] == "blobs" and not name.suffix and digest.hexdigest() != name.name:
        disk.remove_file(fresh)
        raise ChecksumMismatch(
            f"{source} is damaged: its SHA-256 is {digest.hexdigest()}; nothing was switched",
            hint="foundry cache verify --repair",
        )
    info = source.stat()
    os.utime(fresh, ns=(info.st_atime_ns, info.st_mtime_ns))
    fresh.chmod(info.st_mode & 0o777)


def _compare(plan: MovePlan) -> None:
    """Everything is there, and nothing else: what was removed since an earlier try must not come back."""
    for extra in set(_walk(plan.target)) - set(plan.files):
        disk.remove_file(plan.target / extra)
        for folder in extra.parents:
            with contextlib.suppress(OSError):
                (plan.target / folder).rmdir()
    for name in plan.files:
        if not _is_there(plan.target / name, name, (plan.source / name).lstat()):
            raise DiskError(f"{plan.target / name} is not what was put there; nothing was switched", hint="try again")


def _remove_old(source: Path) -> None:
    """What the store made, versions first; the folder itself only where nothing else is in it."""
    with disk.writing(source):
        for part in ("models", *(p for p in _OWN if p != "models")):
            disk.remove_tree(source / part)
        with contextlib.suppress(OSError):
            source.rmdir()


def _files(root: Path) -> Iterator[Path]:
    return (name for name in _walk(root) if name.suffix not in (".lock", ".new"))


def _walk(root: Path) -> Iterator[Path]:
    for part in _PARTS:
        for folder, folders, names in os.walk(root / part):
            folders.sort()
            for name in sorted(names):
                yield (Path(folder) / name).relative_to(root)


def _is_unborn_mark(path: Path) -> bool:
    """What a move that was killed while it wrote its mark leaves behind."""
    return path.name.startswith(f".{_MARK}.")


def _is_there(path: Path, name: Path, wanted: os.stat_result) -> bool:
    """A file gets its name only when it is whole, so size is enough for what never changes; else the time as well."""
    try:
        found = path.lstat()
    except OSError:
        return False
    never_changes = name.parts[0] in ("blobs", "models")
    return found.st_size == wanted.st_size and (never_changes or found.st_mtime_ns == wanted.st_mtime_ns)


def _one_file_system(source: Path, target: Path) -> bool:
    there = next(p for p in (target, *target.parents) if p.exists())
    here = next(p for p in (source, *source.parents) if p.exists())
    return there.stat().st_dev == here.stat().st_dev


def _in_use(store: Store) -> bool:
    if any(partial.in_use for partial in store.partials()):
        return True
    locks = store.tmp.glob("*.lock") if store.tmp.is_dir() else ()
    return any(not _is_free(lock) for lock in locks)


def _is_free(lock: Path) -> bool:
    try:
        with disk.held(lock) as free:
            return free
    except OSError:
        return True

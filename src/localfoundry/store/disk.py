"""What the store asks of a file system: durable renames, locks that die with their holder, and errors in our words.

Leaves to its callers what the files mean. Locks are advisory (`flock`, `LockFileEx`) and released by the kernel when
a process ends in any way, so nothing is ever left locked; on a file system without them (some network shares)
`filelock` falls back to a lock file, which a crash can leave behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from localfoundry.errors import DiskError, DiskFull
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from filelock import FileLock

_MOVE = "foundry cache cd PATH puts the models elsewhere"
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals while writing `path` into DiskFull or DiskError."""
    try:
        yield
    except OSError as exc:
        raise disk_error(exc, path) from exc


def disk_error(exc: OSError, path: Path) -> DiskError:
    """What went wrong with `path`, with what to type next."""
    if exc.errno in _FULL:
        free = format_bytes(free_bytes(path))
        return DiskFull(
            f"the disk is full: {free} free at {path}. What was downloaded is kept",
            hint=f"make room (foundry cache clean) and run the same command again; {_MOVE}",
        )
    if exc.errno in _REFUSED:
        return DiskError(f"cannot write {path}: {exc.strerror}", hint=_MOVE)
    if exc.errno == errno.EFBIG:
        return DiskError(f"cannot write {path}: the file system or a limit allows no larger file", hint=_MOVE)
    return DiskError(f"cannot write {path}: {exc.strerror or exc}", hint=_MOVE)


def free_bytes(path: Path) -> int | None:
    """Bytes free to us where `path` is or would be made; None where the system does not tell."""
    import shutil  # with its compressors, a tenth of the time that listing models may take

    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def lock(path: Path) -> FileLock:
    """A lock of this file for one holder among all processes and tasks; taken by `acquire`, never by making it."""
    from filelock import FileLock

    return FileLock(path, thread_local=False)


def acquire(guard: FileLock, timeout_s: float = 0) -> bool:
    """Take the lock, waiting at most so long; False where somebody else holds it."""
    from filelock import Timeout

    try:
        guard.acquire(timeout=timeout_s)
    except Timeout:
        return False
    return True


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Try to hold the lock `path`; yields whether it was free. Does not wait."""
    guard = lock(path)
    if not acquire(guard):
        yield False
        return
    try:
        yield True
    finally:
        guard.release()


def remove_lock(path: Path) -> None:
    """Remove a lock file while holding it: a waiter notices that its file lost the name, and locks the new one."""
    with contextlib.suppress(OSError):  # Windows keeps a file that is open
        path.unlink()


def sync_file(path: Path) -> None:
    """Wait until the bytes of `path` are on the disk and not only in memory."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_bytes(target: Path, data: bytes) -> None:
    """Let `target` hold `data`, durably and in one step: a crash leaves the old bytes or the new ones."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    sync_folder(target.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError as exc:
        if exc.errno in _FULL:
            raise
        import shutil

        shutil.copyfile(source, target)
        sync_file(target)


def make_read_only(path: Path) -> None:
    """Take away the right to write: two names share the bytes, and an edit through one would change the other."""
    with contextlib.suppress(OSError):
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)


def size_on_disk(path: Path) -> int:
    """Bytes of a file that take room: holes, where a download has not arrived yet, do not. Raises FileNotFoundError."""
    return _occupied(path.lstat())


def _occupied(info: os.stat_result) -> int:
    blocks = getattr(info, "st_blocks", None)  # of 512 bytes; Windows has none, and our files no holes there
    return info.st_size if blocks is None else min(info.st_size, blocks * 512)


def remove_file(path: Path) -> int:
    """Remove a file, read-only or not, and return the bytes that this frees: 0 while it has another name."""
    try:
        info = path.lstat()
        if sys.platform == "win32":
            path.chmod(stat.S_IWRITE)
        path.unlink()
    except FileNotFoundError:
        return 0
    return _occupied(info) if info.st_nlink <= 1 else 0


def remove_tree(folder: Path) -> int:
    """Remove a folder of the store and return the bytes that this frees. Links are removed, not followed."""
    if folder.is_symlink() or not folder.is_dir():
        return remove_file(folder)
    freed = sum(remove_tree(child) for child in list(folder.iterdir()))
    folder.rmdir()
    return freed


def tree_bytes(folder: Path) -> int:
    """Bytes in files below `folder`; 0 where there is none."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).lstat().st_size
    return total

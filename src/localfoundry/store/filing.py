"""The last step of adopting and of importing a bundle: a staged folder becomes a version, in one rename.

Decides under the store's gate, so that two processes never make the same version twice or take the same number.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localfoundry.errors import DiskError
from localfoundry.store import disk
from localfoundry.store.manifest import Manifest

if TYPE_CHECKING:
    from localfoundry.store.progress import Progress
    from localfoundry.store.store import Store

_WAIT_S = 3600.0
_POLL_S = 0.2


def same_bytes(manifest: Manifest, other: Manifest) -> bool:
    """Whether two versions have the same name and the same files."""
    return manifest.name.lower() == other.name.lower() and {f.name: f.sha256 for f in manifest.files} == {
        f.name: f.sha256 for f in other.files
    }


def appear(store: Store, staged: Path, manifest: Manifest) -> Manifest:
    """Give the staged files their place and return the manifest as filed, or the version that has the same bytes.

    The number of `manifest` is kept where it is free and above 0, else the next one is taken. Raises DiskError.
    """
    with store.gate(), disk.writing(store.models):
        present = [m for m in store.manifests() if m.name.lower() == manifest.name.lower()]
        if (same := next((m for m in present if same_bytes(m, manifest)), None)) is not None:
            return same
        number = manifest.version
        if (
            number < 1
            or (store.models / manifest.name / str(number)).exists()
            or number in {m.version for m in present}
        ):
            number = store.next_version(manifest.name)
        filed = msgspec.structs.replace(manifest, version=number)
        path = staged / "manifest.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(filed), indent=2) + b"\n")
        disk.sync_file(path)
        disk.sync_folder(staged)
        folder = store.folder(filed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(folder)
        disk.sync_folder(folder.parent)
        disk.sync_folder(store.models)
        return filed


@contextlib.contextmanager
def working(store: Store, key: str, what: str, progress: Progress, *, keep: bool = False) -> Iterator[Path]:
    """A folder of our own below tmp/, under its lock; empty at the end. Waits for another process at the same work.

    Raises DiskError after an hour. While it is held, `cache clean` leaves all blobs alone. `keep`: where the work ends
    with an exception, what it left stays for the next attempt, until `cache clean`.
    """
    store.prepare()
    work, lock = store.tmp / key, store.tmp / f"{key}.lock"
    guard = disk.lock(lock)
    deadline = time.monotonic() + _WAIT_S
    told = False
    with disk.writing(lock):
        while not disk.acquire(guard):
            if not told:
                progress.note(f"another foundry process is at {what}; waiting for it")
                told = True
            if time.monotonic() > deadline:
                raise DiskError(f"another process has held {lock} for {_WAIT_S:.0f} s", hint="end it and try again")
            time.sleep(_POLL_S)
    done = False
    try:
        with disk.writing(work):
            work.mkdir(exist_ok=True)
            yield work
        done = True
    finally:
        if done or not keep:
            with contextlib.suppress(OSError):
                disk.remove_tree(work)
        disk.remove_lock(lock)
        guard.release()


def now() -> str:
    """The time as manifests have it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")

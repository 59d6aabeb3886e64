"""What every way of making a version shares: its source read once in full, room on the disk, finished files."""

from __future__ import annotations

from pathlib import Path

from localfoundry.errors import DamagedModel, DiskFull
from localfoundry.store import adopted, disk
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.progress import Progress
from localfoundry.store.store import Store
from localfoundry.units import format_bytes

ROOM_LEFT_BYTES = 512_000_000  # that stay free on the disk: for logs, results, and what others write


def main_file(store: Store, version: Manifest) -> StoredFile:
    """The file that is the model, with its sum."""
    name = store.main_file(version).relative_to(store.folder(version)).as_posix()
    return next(f for f in version.files if f.name == name)


def require_room(store: Store, name: str, size_bytes: int, needs_bytes: int) -> None:
    """Raise DiskFull where fewer than `needs_bytes` are free; `size_bytes` is what `name` will take in the end."""
    free = disk.free_bytes(store.root)
    if free is not None and needs_bytes > free:
        raise DiskFull(
            f"{name} needs {format_bytes(size_bytes)} and {format_bytes(ROOM_LEFT_BYTES)} left over, "
            f"and {format_bytes(free)} are free at {store.root}",
            hint="make room (foundry cache clean), or put the models elsewhere: foundry cache cd PATH",
        )


def verify_source(store: Store, source: Manifest, progress: Progress) -> None:
    """Read the source once in full: what is made out of it must be made out of what was verified.

    Raises DamagedModel, DiskError.
    """
    adopted.check(store, source)
    main, path = main_file(store, source), store.main_file(source)
    progress.start("Verifying", main.name, main.size_bytes)
    if adopted.sha256_of(path, progress.position) != main.sha256:
        raise DamagedModel(
            f"{main.name} of {source.id} is not what was verified", hint=f"foundry cache verify {source.id}"
        )


def settled(store: Store, file: Path) -> StoredFile:
    """A finished file, on the disk for good and under the name of its content as well."""
    disk.sync_file(file)
    disk.make_read_only(file)
    found = StoredFile(file.name, file.stat().st_size, adopted.sha256_of(file))
    blob = store.blob(found.sha256)
    if not blob.exists():
        disk.link_or_copy(file, blob)
        disk.sync_folder(blob.parent)
    return found

"""Whose the bytes on the disk are, and which versions may go to make room: accounts and a plan, then one executor.

Sizes count each blob once. A version's `exclusive` bytes are those that its removal frees; `shared` ones another
version refers to as well. Where the file system has no hard links, a version's own copies are exclusive.

Which versions go is pure (`plan_removal`), from facts that were gathered before. Pinned and loaded versions never go;
what another tool owns is not in the store and so never in a plan.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localfoundry.store import disk, refs
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store


@dataclass(frozen=True, slots=True)
class Use:
    """A version as the plan sees it. `last_used`: seconds since the epoch; the load, else when it was made."""

    manifest: Manifest
    last_used: float
    protected: str = ""  # why it may not go: `pinned`, `loaded`


@dataclass(frozen=True, slots=True)
class Rules:
    """What may go; None: no such rule.

    `older_than_s`: what was not used for so long. `max_bytes`: the least recently used, until the rest has at most so
    many. `keep` alone: all but so many of the newest of each name; beside another rule it protects these from it.
    """

    older_than_s: float | None = None
    keep: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """Versions that would go, the bytes that this frees, and those that a rule meant but that are protected."""

    doomed: tuple[Use, ...]
    spared: tuple[Use, ...]
    freed_bytes: int
    left_bytes: int


@dataclass(frozen=True, slots=True)
class Account:
    """What a version holds of the disk, in bytes; `missing`: promised, and not there."""

    manifest: Manifest
    exclusive_bytes: int
    shared_bytes: int
    missing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Space:
    """The whole store. `unreferenced` blobs and `leftover` bytes are what `cache clean` frees; `free` None: unknown."""

    accounts: tuple[Account, ...]
    blob_bytes: int
    unreferenced_bytes: int
    partial_bytes: int
    leftover_bytes: int
    total_bytes: int
    free_bytes: int | None


# When a version was last used


def note_use(store: Store, manifest: Manifest) -> None:
    """Remember that a version is loaded now. Best effort: a store that cannot be written works without."""
    mark = store.used_mark(manifest)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(exist_ok=True)
        mark.touch()


def last_loads(store: Store) -> dict[str, float]:
    """Seconds since the epoch of the last load, by `name:version`; without those that never were."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(store.used) as entries:
        for entry in entries:
            name, mark, version = entry.name.rpartition("@")
            if mark and version.isdecimal():
                with contextlib.suppress(OSError):
                    found[f"{name}:{version}"] = entry.stat().st_mtime
    return found


def uses(store: Store, manifests: Iterable[Manifest], loaded: Iterable[str] = ()) -> list[Use]:
    """Facts for a plan. `loaded`: ids that the service has loaded."""
    everything = list(manifests)
    loads, in_memory = last_loads(store), set(loaded)
    pinned = refs.pinned(everything, refs.read(store.refs))

    def why(manifest: Manifest) -> str:
        return "loaded" if manifest.id in in_memory else "pinned" if manifest.id in pinned else ""

    return [Use(m, max(loads.get(m.id, 0.0), float(m.created_epoch)), why(m)) for m in everything]


# Accounts


def shared_bytes(manifests: Sequence[Manifest]) -> dict[str, int]:
    """Of each version, by id, the bytes that another version refers to as well. From the manifests alone. Pure."""
    users = _users(manifests)
    return {m.id: sum({f.sha256: f.size_bytes for f in m.files if users[f.sha256] > 1}.values()) for m in manifests}


def _users(manifests: Sequence[Manifest]) -> Counter[str]:
    """How many versions refer to each blob. Adopted files are no blobs: their bytes are their owner's."""
    return Counter(sha for m in manifests for sha in {f.sha256 for f in m.files if f.external is None})


def measure(store: Store) -> Space:
    """Account for every byte of the store, by what is on the disk and not by what manifests promise."""
    manifests = store.manifests()
    users = _users(manifests)
    accounts = tuple(_account(store, m, users) for m in manifests)
    sizes = {p.name: _size(p) for p in _files(store.blobs)}
    leftovers = store.plan_clean().leftovers
    return Space(
        accounts=accounts,
        blob_bytes=sum(sizes.values()),
        unreferenced_bytes=sum(size for name, size in sizes.items() if name.partition(".")[0] not in users),
        partial_bytes=disk.tree_bytes(store.partial),
        leftover_bytes=sum(disk.tree_bytes(path) or _size(path) for path in leftovers),
        total_bytes=_total(store.root),
        free_bytes=disk.free_bytes(store.root),
    )


def _account(store: Store, manifest: Manifest, users: Counter[str]) -> Account:
    exclusive = shared = missing = 0
    blobs: set[str] = set()
    for file in manifest.files:
        if file.external is not None:
            here = _size(store.folder(manifest) / file.name)
            shared += here  # with its owner
            missing += 0 if here else file.size_bytes
            continue
        blob, named = _inode(store.blob(file.sha256)), _inode(store.folder(manifest) / file.name)
        if blob is None and named is None:
            missing += file.size_bytes
        if named is not None and named != blob:
            exclusive += named[2]  # a copy of its own
        if blob is None or file.sha256 in blobs:
            continue
        blobs.add(file.sha256)
        if users[file.sha256] > 1:
            shared += blob[2]
        else:
            exclusive += blob[2]
    exclusive += _size(store.folder(manifest) / "manifest.json")
    return Account(manifest, exclusive, shared, missing)


def _inode(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_size


def _size(path: Path) -> int:
    found = _inode(path)
    return found[2] if found else 0


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _total(folder: Path) -> int:
    """Bytes below `folder`, each file once however many names it has."""
    seen: dict[tuple[int, int], int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if (found := _inode(Path(root) / name)) is not None:
                seen[found[:2]] = found[2]
    return sum(seen.values())


# Which versions go


def plan_removal(everything: Sequence[Use], rules: Rules, now: float) -> RemovalPlan:
    """What `rules` remove. Pure; bytes are those of the manifests, each blob once."""
    newest = _newest(everything, rules.keep)
    selected: list[Use] = []
    if rules.older_than_s is not None:
        selected += [u for u in everything if now - u.last_used > rules.older_than_s and u.manifest.id not in newest]
    elif rules.keep is not None and rules.max_bytes is None:
        selected += [u for u in everything if u.manifest.id not in newest]
    doomed = [u for u in selected if not u.protected]
    spared = [u for u in selected if u.protected]
    if rules.max_bytes is not None:
        chosen = {u.manifest.id for u in selected}
        for use in sorted(everything, key=lambda u: (u.last_used, u.manifest.id)):
            if _bytes(everything, doomed) <= rules.max_bytes:
                break
            if use.manifest.id in chosen or use.manifest.id in newest:
                continue
            (spared if use.protected else doomed).append(use)
    left = _bytes(everything, doomed)
    return RemovalPlan(tuple(doomed), tuple(spared), _bytes(everything, ()) - left, left)


def _newest(everything: Sequence[Use], keep: int | None) -> set[str]:
    if keep is None:
        return set()
    ranked = sorted((u.manifest for u in everything), key=lambda m: (m.version, m.created_at), reverse=True)
    place: Counter[str] = Counter()
    kept = set()
    for manifest in ranked:
        if place[manifest.name] < keep:
            kept.add(manifest.id)
        place[manifest.name] += 1
    return kept


def _bytes(everything: Sequence[Use], without: Sequence[Use]) -> int:
    """Bytes of the blobs of all but some versions, each once."""
    gone = {u.manifest.id for u in without}
    left = [u.manifest for u in everything if u.manifest.id not in gone]
    return sum({f.sha256: f.size_bytes for m in left for f in m.files}.values())


def execute(store: Store, plan: RemovalPlan, loaded: Callable[[], Iterable[str]]) -> tuple[list[Manifest], int]:
    """Remove what the plan names and what still may go by now; returns the versions and the bytes freed.

    `loaded` is asked again before each removal: a model may have been loaded while the plan was being read.
    """
    gone: list[Manifest] = []
    freed = 0
    for use in plan.doomed:
        now = {u.manifest.id: u for u in uses(store, store.manifests(), loaded())}.get(use.manifest.id)
        if now is None or now.manifest != use.manifest or now.protected:
            continue
        freed += store.remove(use.manifest)
        gone.append(use.manifest)
    return gone, freed

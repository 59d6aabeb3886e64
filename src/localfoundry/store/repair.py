"""Make damaged bytes of a version right again, from the cheapest place that has them.

    a healthy copy on this disk    linked to where a bad one was
    the recorded, pinned source    only the damaged chunks, by range, where the sums of the chunks are known
    the same source                else the whole file, as a pull would fetch it

The new bytes are put together in `tmp/`, hashed as a whole, and only then take the place of the old ones, one rename
for each name; killed at any moment, what was healthy still is. What was fetched of a whole file stays for the next try.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localfoundry.config import Settings
from localfoundry.errors import ChecksumMismatch, FoundryError, SourceError, SourceUnreachable, UsageError
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import disk
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Progress, Silent
from localfoundry.store.store import Store
from localfoundry.store.verify import Checked, Copy, Span, hash_file, write_sums

if TYPE_CHECKING:
    import httpx2

_REDIRECTS = 5
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Repaired:
    """How a file was made whole: `how` is `linked`, `chunks` or `file`; bytes that came from the source."""

    sha256: str
    how: str
    fetched_bytes: int


async def repair(
    store: Store, checked: Checked, *, settings: Settings, progress: Progress | None = None
) -> Repaired | None:
    """Make one file right; None where nothing is wrong with it.

    Raises SourceError where it cannot be had, ChecksumMismatch where the source holds other bytes, DiskError.
    """
    progress = progress or Silent()
    if checked.is_healthy:
        return None
    owner = _owner(checked)
    if owner is not None:
        raise UsageError(
            f"{checked.name} belongs to {owner}, and is not ours to change",
            hint=f"foundry cache remove {checked.ids[0]}; then adopt or download it again",
        )
    work = store.tmp / f"repair-{checked.sha256[:32]}"
    store.prepare()
    with disk.held(work.with_name(f"{work.name}.lock")) as free:
        if not free:
            raise UsageError(f"another foundry process is repairing {checked.name}", hint="foundry cache verify")
        done = await _repair(store, checked, work, settings, progress)
        disk.remove_tree(work)
        disk.remove_lock(work.with_name(f"{work.name}.lock"))
    return done


def _owner(checked: Checked) -> str | None:
    """Whose the bytes are, where some other tool's name for them is what a version refers to."""
    files = [f for m in checked.manifests for f in m.files if f.sha256 == checked.sha256]
    return next((f.external.owner for f in files if f.external is not None), None)


async def _repair(store: Store, checked: Checked, work: Path, settings: Settings, progress: Progress) -> Repaired:
    healthy = next((copy.paths[0] for copy in checked.copies if copy.problem is None), None)
    if healthy is not None:
        await asyncio.to_thread(_put_in_place, store, checked, healthy, work)
        return Repaired(checked.sha256, "linked", 0)
    plan, file = await _planned(checked, settings)
    progress.note(f"fetching what is damaged of {checked.name} from {plan.source}")
    await asyncio.to_thread(work.mkdir, exist_ok=True)
    best = min((c for c in checked.bad if c.spans), key=lambda c: len(c.spans), default=None)
    if best is not None and file.url is not None and file.member is None and not settings.offline:
        with contextlib.suppress(_NotByRange, ChecksumMismatch):
            fetched = await _by_ranges(best, file, work / "patched", progress)
            await _accept(store, checked, work / "patched", work, progress)
            return Repaired(checked.sha256, "chunks", fetched)
    from localfoundry.store.pull import obtain

    aside = Store(work / "store")
    stored = await obtain(aside, plan, file, progress, offline=settings.offline)
    if stored.sha256 != checked.sha256:
        aside.blob(stored.sha256).unlink()
        raise ChecksumMismatch(
            f"{checked.name} from {plan.source} has the SHA-256 {stored.sha256} now, but {checked.sha256} is wanted",
            hint=f"the source holds other bytes: foundry cache remove {checked.ids[0]}",
        )
    await _accept(store, checked, aside.blob(stored.sha256), work, progress)
    return Repaired(checked.sha256, "file", stored.size_bytes)


async def _planned(checked: Checked, settings: Settings) -> tuple[PullPlan, PlannedFile]:
    """The file in the plan of a version that refers to it: the first whose source still has it."""
    failure: FoundryError | None = None
    for manifest in checked.manifests:
        try:
            return await _planned_of(manifest, checked, settings)
        except FoundryError as exc:
            failure = failure or exc
    raise SourceError(
        f"{checked.name} of {', '.join(checked.ids)} cannot be had again: {failure}",
        hint=failure.hint if failure else None,
    ) from failure


async def _planned_of(manifest: Manifest, checked: Checked, settings: Settings) -> tuple[PullPlan, PlannedFile]:
    from localfoundry.sources.resolve import resolve

    name = next(f.name for f in manifest.files if f.sha256 == checked.sha256)
    plan = await resolve(manifest.source, settings=settings)
    for file in plan.files:
        promised = file.member.sha256 if file.member else file.sha256
        if promised == checked.sha256 or (promised is None and (file.name == name or len(plan.files) == 1)):
            return plan, file
    raise SourceError(f"{manifest.source} no longer holds {name} with the SHA-256 {checked.sha256}")


# Only the damaged chunks


class _NotByRange(Exception):
    """The source does not deliver ranges, or not the right ones: the whole file is fetched instead."""


async def _by_ranges(copy: Copy, file: PlannedFile, target: Path, progress: Progress) -> int:
    """A copy of the damaged bytes with the right chunks written over the wrong ones; returns the bytes fetched."""
    from localfoundry.sources.network import open_client

    with disk.writing(target):
        await asyncio.to_thread(_copy_bytes, copy.paths[0], target, copy)
    total, done = sum(span.size_bytes for span in copy.spans), 0
    progress.start("Downloading", file.name, total)
    async with await asyncio.to_thread(lambda: open_client(stall_s=30.0)) as client:
        for span in copy.spans:
            data = await _fetch(client, file, span)
            if hashlib.sha256(data).hexdigest() != span.sha256:
                raise _NotByRange
            with disk.writing(target):
                await asyncio.to_thread(_write_at, target, span.offset, data)
            done += len(data)
            progress.position(done)
    return done


async def _fetch(client: httpx2.AsyncClient, file: PlannedFile, span: Span) -> bytes:
    import httpx2

    from localfoundry.sources.network import follow

    last = span.offset + span.size_bytes - 1
    try:
        answer, _ = await follow(
            client,
            str(file.url),
            own=dict(file.headers),
            every={"Range": f"bytes={span.offset}-{last}"},
            redirects=_REDIRECTS,
            source=file.name,
        )
        try:
            match = _RANGE.fullmatch(answer.headers.get("content-range", ""))
            if answer.status_code != 206 or match is None or int(match[1]) != span.offset or int(match[2]) != last:
                raise _NotByRange
            return await _body(answer, span.size_bytes)
        finally:
            await answer.aclose()
    except httpx2.HTTPError as exc:
        raise SourceUnreachable(
            f"{file.name} could not be fetched: {exc or type(exc).__name__}", hint="foundry cache verify --repair"
        ) from exc


async def _body(answer: httpx2.Response, size: int) -> bytes:
    data = bytearray()
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > size:
            raise _NotByRange
    return bytes(data)


def _copy_bytes(source: Path, target: Path, copy: Copy) -> None:
    import shutil

    disk.remove_file(target)
    shutil.copyfile(source, target)
    end = max(span.offset + span.size_bytes for span in copy.spans)
    if target.stat().st_size > end and copy.problem == "wrong size":
        os.truncate(target, end)


def _write_at(target: Path, offset: int, data: bytes) -> None:
    with target.open("rb+") as stream:
        stream.seek(offset)
        stream.write(data)


# The bytes in their place


async def _accept(store: Store, checked: Checked, fresh: Path, work: Path, progress: Progress) -> None:
    """Hash the whole, then let it take the place of everything that was wrong."""
    progress.start("Checking", checked.name, checked.size_bytes)
    digest, sums = await asyncio.to_thread(lambda: hash_file(fresh, progress, with_chunks=True))
    if digest != checked.sha256:
        raise ChecksumMismatch(f"what was put together of {checked.name} has the SHA-256 {digest}")
    with disk.writing(fresh):
        await asyncio.to_thread(disk.sync_file, fresh)
        disk.make_read_only(fresh)
        await asyncio.to_thread(_put_in_place, store, checked, fresh, work)
    write_sums(store, checked.sha256, sums)


def _put_in_place(store: Store, checked: Checked, healthy: Path, work: Path) -> None:
    """Give the healthy bytes the name of every bad copy, the blob first; one rename for each name."""
    blob = store.blob(checked.sha256)
    bad = [path for copy in checked.bad for path in copy.paths]
    with store.gate(), disk.writing(blob):
        work.mkdir(exist_ok=True)
        source = healthy
        for path in sorted(bad, key=lambda p: p != blob):
            if path != blob and not path.parent.is_dir():
                continue  # the version was removed meanwhile
            named = work / "named"
            disk.remove_file(named)
            disk.link_or_copy(source, named)
            disk.make_read_only(named)
            named.replace(path)
            disk.sync_folder(path.parent)
            if path == blob:
                source = blob

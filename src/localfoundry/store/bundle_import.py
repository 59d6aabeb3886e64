"""Versions out of a bundle: checked, planned, verified blob by blob, and filed.

    opened bundle ──▶ ImportPlan ──▶ room? ──▶ each version: blobs that are not here ──▶ header looked at ──▶ filed

What the bundle says of itself is not believed where the files can be asked: sums, sizes and everything that a header
tells are taken from the bytes. An import that was killed goes on: blobs that are here are skipped, and of the one it
was at, what is on the disk is hashed again instead of copied again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from localfoundry.errors import BadBundle, DiskError, DiskFull, NotAModel
from localfoundry.sources.names import relative_name
from localfoundry.sources.plan import PullPlan
from localfoundry.store import disk
from localfoundry.store.bundle import Bundle, Member
from localfoundry.store.filing import appear, now, same_bytes, working
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Progress, Silent
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.store.store import Store

_COPY_BYTES = 4 * 1024 * 1024
_MARGIN_BYTES = 16_000_000


class ImportPlan(msgspec.Struct, frozen=True):
    """What an import would do. `present` are versions whose bytes are here, `number_taken` those that get another."""

    new: tuple[Manifest, ...]
    present: tuple[Manifest, ...]
    number_taken: tuple[Manifest, ...]
    needed_bytes: int


def plan_import(store: Store, bundle: Bundle) -> ImportPlan:
    """Compare the bundle with the store; reads no blob and writes nothing."""
    here = store.manifests()
    present = tuple(m for m in bundle.index.manifests if any(same_bytes(m, h) for h in here))
    new = tuple(m for m in bundle.index.manifests if m not in present)
    taken = {h.id.lower() for h in here}
    missing = {f.sha256: f.size_bytes for m in new for f in m.files if not store.blob(f.sha256).exists()}
    return ImportPlan(new, present, tuple(m for m in new if m.id.lower() in taken), sum(missing.values()))


def import_bundle(store: Store, bundle: Bundle, plan: ImportPlan, progress: Progress | None = None) -> list[Manifest]:
    """File the new versions of the bundle, one after the other, and return them. Blocking.

    Raises DiskFull before anything is written, BadBundle for a blob with wrong bytes and for files that are no model,
    DiskError. Versions that were filed before that stay: each is whole and verified.
    """
    progress = progress or Silent()
    free = disk.free_bytes(store.root)
    if plan.new and free is not None and plan.needed_bytes + _MARGIN_BYTES > free:
        raise DiskFull(
            f"the bundle needs {format_bytes(plan.needed_bytes + _MARGIN_BYTES)} more, "
            f"and {format_bytes(free)} are free at {store.root}",
            hint="make room (foundry cache clean), or put the models elsewhere: foundry cache cd PATH",
        )
    if not plan.new:
        return []
    with working(store, f"bundle-{bundle.index_sha256[:32]}", bundle.path.name, progress) as work:
        return [_version(store, bundle, manifest, work, progress) for manifest in plan.new]


def import_results(bundle: Bundle, folder: Path) -> list[Path]:
    """Write the results of the bundle into `folder` and return their paths; one that is there is never replaced.

    Raises BadBundle and DiskError.
    """
    written = []
    for member in bundle.results:
        bundle.stream.seek(member.offset)
        body = bundle.stream.read(member.size_bytes)  # bounded by the form: 16 MiB
        if hashlib.sha256(body).hexdigest() != member.sha256:
            raise _wrong(bundle, member)
        assert member.sha256 is not None
        name = member.name.removeprefix("results/")
        target = folder / name
        if target.exists() and target.read_bytes() != body:
            target = folder / f"{name.removesuffix('.json')}-{member.sha256[:12]}.json"
        with disk.writing(target):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            temporary.write_bytes(body)
            temporary.replace(target)
        written.append(target)
    return written


def _version(store: Store, bundle: Bundle, manifest: Manifest, work: Path, progress: Progress) -> Manifest:
    for _ in range(3):
        for file in manifest.files:
            if not store.blob(file.sha256).exists():
                _blob(store, bundle, bundle.blobs[file.sha256], work, progress)
        try:
            return _filed(store, bundle, manifest, work / "version")
        except FileNotFoundError:
            continue  # another process removed a version with the same bytes at this moment
    raise DiskError(f"blobs of {manifest.id} are removed while it is imported", hint="try again")


def _blob(store: Store, bundle: Bundle, member: Member, work: Path, progress: Progress) -> None:
    """Copy one blob, going on from what an earlier attempt left; begin again once where that was not good."""
    assert member.sha256 is not None
    part = work / f"{member.sha256}.part"
    name = next(f.name for m in bundle.index.manifests for f in m.files if f.sha256 == member.sha256)
    progress.start("Importing", name, member.size_bytes)
    resumed = part.exists()
    with disk.writing(part):
        if _copied(bundle, member, part, progress) != member.sha256:
            disk.remove_file(part)
            if not resumed or _copied(bundle, member, part, progress) != member.sha256:
                disk.remove_file(part)
                raise _wrong(bundle, member)
        disk.make_read_only(part)
        blob = store.blob(member.sha256)
        part.replace(blob)
        disk.sync_folder(blob.parent)


def _copied(bundle: Bundle, member: Member, part: Path, progress: Progress) -> str:
    """Complete `part` and return the sum of what it then holds."""
    digest = hashlib.sha256()
    with part.open("a+b") as writing:
        if writing.tell() > member.size_bytes:
            writing.truncate(0)
        writing.seek(0)
        done = 0
        while data := writing.read(_COPY_BYTES):
            digest.update(data)
            done += len(data)
        while done < member.size_bytes:
            bundle.stream.seek(member.offset + done)
            data = bundle.stream.read(min(_COPY_BYTES, member.size_bytes - done))
            if not data:
                raise BadBundle(f"{bundle.path.name} became shorter while it was read")
            digest.update(data)
            writing.write(data)
            done += len(data)
            progress.position(done)
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()


def _filed(store: Store, bundle: Bundle, manifest: Manifest, staged: Path) -> Manifest:
    from localfoundry.store.facts import facts_of

    with disk.writing(staged.parent):
        disk.remove_tree(staged)
        staged.mkdir()
    for file in manifest.files:
        target = staged / relative_name(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        disk.link_or_copy(store.blob(file.sha256), target)
    plan = PullPlan(manifest.name, None, manifest.alias, manifest.source, manifest.format, ())
    try:
        facts = facts_of(staged, plan, [f.name for f in manifest.files])
    except NotAModel as exc:
        disk.remove_tree(staged)
        store.drop_unreferenced([f.sha256 for f in manifest.files])
        raise BadBundle(f"{manifest.id} of {bundle.path.name} is refused: {exc.message}") from exc
    return appear(store, staged, msgspec.structs.replace(manifest, **_told(manifest, facts), created_at=now()))


def _told(manifest: Manifest, facts: dict[str, object]) -> dict[str, Any]:
    """What the header says wins over what the bundle says, but for words that people choose."""
    chosen = {"quantization", "license"}
    return {k: v for k, v in facts.items() if k not in chosen or getattr(manifest, k) is None}


def _wrong(bundle: Bundle, member: Member) -> BadBundle:
    return BadBundle(
        f"{member.name} in {bundle.path.name} has other bytes than its sum says",
        hint="copy the bundle again and compare its SHA-256 with that of the original",
    )

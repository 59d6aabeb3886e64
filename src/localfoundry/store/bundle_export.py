"""Write versions of the store into one bundle, in one pass and constant memory. The form is `bundle.py`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from localfoundry.errors import ChecksumMismatch, DiskFull, UsageError
from localfoundry.store import adopted, disk
from localfoundry.store.adopted import sha256_of
from localfoundry.store.bundle import (
    BLOCK,
    MAX_INDEX_BYTES,
    MAX_RESULT_BYTES,
    SIGNATURE_NAME,
    BundledBlob,
    BundledResult,
    Index,
    Member,
    layout,
    new_index,
    padding,
    parse_index,
)
from localfoundry.store.filing import now
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Progress, Silent
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.store.signing import Signer
    from localfoundry.store.store import Store

_COPY_BYTES = 4 * 1024 * 1024


class ExportPlan(msgspec.Struct, frozen=True):
    """What will be written: `sources` has a file for each blob and result, by member name."""

    index: Index
    body: bytes  # of the index
    sources: dict[str, Path]
    size_bytes: int


def plan_export(
    store: Store, manifests: Sequence[Manifest], results: Sequence[Path], signer: Signer | None
) -> ExportPlan:
    """Which bytes go in. Adopted versions are checked here. Raises ModelGone, ModelChanged, UsageError, DiskError."""
    sources: dict[str, Path] = {}
    blobs: dict[str, BundledBlob] = {}
    own: dict[str, Manifest] = {}
    for manifest in manifests:
        adopted.check(store, manifest)
        files = tuple(msgspec.structs.replace(f, external=None) for f in manifest.files)
        own[manifest.id] = msgspec.structs.replace(manifest, files=files)
        for file in files:
            blobs[file.sha256] = BundledBlob(file.sha256, file.size_bytes)
            sources[f"blobs/sha256/{file.sha256}"] = store.folder(manifest) / file.name
    bundled = []
    for path in results:
        size = path.stat().st_size
        if size > MAX_RESULT_BYTES:
            raise UsageError(f"{path} has {format_bytes(size)}; a result may have {format_bytes(MAX_RESULT_BYTES)}")
        bundled.append(BundledResult(path.name, sha256_of(path), size))
        sources[f"results/{path.name}"] = path
    index = new_index(
        tuple(own.values()), tuple(blobs.values()), tuple(bundled), signer.public_key if signer else None, now()
    )
    body = msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n"
    if len(body) > MAX_INDEX_BYTES:
        raise UsageError("the index of so many versions is too large", hint="export them in several bundles")
    parse_index(body)  # what cannot be imported is not exported
    return ExportPlan(index, body, sources, layout(index, len(body))[1])


def export(
    plan: ExportPlan,
    target: Path,
    *,
    signer: Signer | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the bundle; `target` appears whole or not at all. Blocking.

    Every blob is hashed on the way. Raises UsageError where `target` is there and `force` is not set, DiskFull before
    anything is written, ChecksumMismatch, DiskError.
    """
    progress = progress or Silent()
    if target.exists() and not force:
        raise UsageError(f"{target} is there already", hint="name another file, or add --force to replace it")
    free = disk.free_bytes(target.absolute().parent)
    if free is not None and plan.size_bytes > free:
        raise DiskFull(
            f"{target} needs {format_bytes(plan.size_bytes)}, and {format_bytes(free)} are free there",
            hint="name a file on another disk",
        )
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with disk.writing(target):
            with unfinished.open("wb") as stream:
                _write(stream, plan, signer, progress)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(target)
            disk.sync_folder(target.absolute().parent)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _write(stream: BinaryIO, plan: ExportPlan, signer: Signer | None, progress: Progress) -> None:
    members, _ = layout(plan.index, len(plan.body))
    for member in members:
        stream.write(member.header)
        if member.sha256 is not None:
            _copy(stream, member, plan.sources[member.name], progress)
        elif member.name == SIGNATURE_NAME:
            assert signer is not None
            stream.write(signer.sign(hashlib.sha256(plan.body).hexdigest()))
        else:
            stream.write(plan.body)
        stream.write(bytes(padding(member.size_bytes)))
    stream.write(bytes(2 * BLOCK))


def _copy(stream: BinaryIO, member: Member, source: Path, progress: Progress) -> None:
    digest, done = hashlib.sha256(), 0
    progress.start("Writing", source.name, member.size_bytes)
    with source.open("rb") as reading:
        while data := reading.read(_COPY_BYTES):
            digest.update(data)
            stream.write(data)
            done += len(data)
            progress.position(done)
    if done != member.size_bytes or digest.hexdigest() != member.sha256:
        raise ChecksumMismatch(
            f"{source} has the SHA-256 {digest.hexdigest()}, but {member.sha256} is what was verified",
            hint="foundry cache verify",
        )

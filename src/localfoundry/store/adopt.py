"""Make a version of files that another tool keeps, without copying them.

    FoundModel ──▶ AdoptionPlan ──▶ each file: read, verified, linked ──▶ header looked at ──▶ models/<name>/<version>

A hard link where both are on one file system, else a symbolic link to the owner's path. Every file is read once in
full; where the owner's name for it is its SHA-256, that is checked. Nothing of the owner is changed: not the mode of
its files either, which a link would share. How such a version stands later is `adopted.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localfoundry.errors import ChecksumMismatch, DiskError, ModelChanged, ModelGone, NotAModel
from localfoundry.sources.found import FoundModel
from localfoundry.sources.names import as_variant_name, relative_name, sha256_hex, variant_name
from localfoundry.store import disk
from localfoundry.store.adopted import check, sha256_of, state_of
from localfoundry.store.filing import appear, now, working
from localfoundry.store.manifest import Adopted, External, Manifest, StoredFile
from localfoundry.store.progress import Progress, Silent

if TYPE_CHECKING:
    from localfoundry.sources.plan import PlannedFile
    from localfoundry.store.store import Store


class AdoptionPlan(msgspec.Struct, frozen=True):
    """What adopting would do with one model. `present` is set where it is here already."""

    found: FoundModel
    present: Manifest | None
    linked: bool  # by hard link: same file system; else by reference


def plan_adoption(store: Store, found: Iterable[FoundModel]) -> list[AdoptionPlan]:
    """A plan for each model, from names, sums and places; reads no model file."""
    manifests = store.manifests()
    return [AdoptionPlan(model, _present(store, model, manifests), _one_disk(store, model)) for model in found]


def _present(store: Store, found: FoundModel, manifests: list[Manifest]) -> Manifest | None:
    """The version with the same bytes: by sums where they are promised, else by the place it was adopted from."""
    for manifest in manifests:
        if manifest.name.lower() != found.plan.name.lower() or _lost(store, manifest):
            continue
        promised = {f.name: f.sha256 for f in found.plan.files}
        have = {f.name: f.sha256 for f in manifest.files}
        if promised.keys() == have.keys() and all(s in (None, have[n]) for n, s in promised.items()):
            unproven = [n for n, s in promised.items() if s is None]
            places = {f.name: f.external.path for f in manifest.files if f.external}
            local = {f.name: str(f.local) for f in found.plan.files}
            if all(places.get(n) == local[n] for n in unproven):
                return manifest
    return None


def _lost(store: Store, manifest: Manifest) -> bool:
    state = state_of(store, manifest)
    return state is not None and state.state in ("changed", "gone")


def _one_disk(store: Store, found: FoundModel) -> bool:
    here = next((p for p in (store.root, *store.root.parents) if p.exists()), Path("/"))
    try:
        device = here.stat().st_dev
        return all(f.local is not None and f.local.stat().st_dev == device for f in found.plan.files)
    except OSError:
        return False


def adopt(store: Store, found: FoundModel, progress: Progress | None = None) -> Manifest:
    """Verify the files of `found`, link them and return the version; the one with the same bytes where there is one.

    Blocking. Raises NotAModel, ChecksumMismatch (the owner's name promises other bytes, or the file changed while it
    was read), DiskError. On any of them the store is as it was.
    """
    progress = progress or Silent()
    plan = found.plan
    _check(found)
    key = f"adopt-{as_variant_name(plan.name)[:50]}-{hashlib.sha256(plan.name.lower().encode()).hexdigest()[:12]}"
    with working(store, key, plan.name, progress) as work:
        staged = work / "version"
        disk.remove_tree(staged)
        staged.mkdir()
        stored = tuple(_take(found.owner, file, staged, progress) for file in plan.files)
        return _file(store, found, staged, stored)


def _check(found: FoundModel) -> None:
    variant_name(found.plan.name)
    seen = {"manifest.json"}
    for file in found.plan.files:
        name = relative_name(file.name).lower()
        if name in seen or name.split("/")[-1].startswith("."):
            raise NotAModel(f"{found.plan.source} has two files named {file.name}, or one with a name that is taken")
        if file.local is None:
            raise NotAModel(f"{file.name} of {found.plan.source} is not on this machine")
        seen.add(name)
    if not found.plan.files:
        raise NotAModel(f"{found.plan.source} has no files that make a model")


def _take(owner: str, file: PlannedFile, staged: Path, progress: Progress) -> StoredFile:
    """Link first, then read through the link: what was verified is what we hold, whoever renames things meanwhile."""
    assert file.local is not None
    try:
        source = file.local.resolve(strict=True)
        target = staged / relative_name(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        linked = _link(source, target)
        before = target.stat()
    except FileNotFoundError as exc:
        raise DiskError(f"{file.local} is no longer there", hint="foundry import --list") from exc
    progress.start("Verifying", file.name, before.st_size)
    digest = sha256_of(target, progress.position)
    after = target.stat()
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise ChecksumMismatch(f"{file.local} changed while it was read", hint=f"let {owner} finish and try again")
    if file.sha256 is not None and digest != sha256_hex(file.sha256):
        raise ChecksumMismatch(f"{file.local} has the SHA-256 {digest}, but {owner} promises {file.sha256}")
    external = External(owner, str(source), linked, after.st_mtime_ns, after.st_ino)
    return StoredFile(file.name, after.st_size, digest, external)


def _link(source: Path, target: Path) -> bool:
    """Whether `target` became a hard link. The system refuses those across disks and, on Linux, to others' files."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        try:
            target.symlink_to(source)
        except OSError as exc:
            raise DiskError(
                f"{source} can neither be linked nor referred to from {target.parent}: {exc.strerror}",
                hint=f"foundry model download {source} makes a copy",
            ) from exc
        return False
    return True


def _file(store: Store, found: FoundModel, staged: Path, stored: tuple[StoredFile, ...]) -> Manifest:
    from localfoundry.store.facts import facts_of

    plan = found.plan
    facts = facts_of(staged, plan, [f.name for f in stored])
    manifest = Manifest(
        name=plan.name,
        version=0,
        alias=plan.alias,
        source=plan.source,
        format=plan.format,
        files=stored,
        created_at=now(),
        commit=plan.commit,
        license=plan.license,
        quantization=plan.quantization,
        tasks=plan.tasks,
        adopted=Adopted(found.owner, found.chat_template, found.parameters, found.untranslated),
    )
    known = {k: v for k, v in facts.items() if v is not None and getattr(manifest, k) is None}
    _retire_lost(store, manifest)
    return appear(store, staged, msgspec.structs.replace(manifest, **known))


def _retire_lost(store: Store, manifest: Manifest) -> None:
    """A version of this name whose adopted files are gone or other bytes cannot be loaded; its entry makes way."""
    for other in store.manifests():
        if other.name.lower() == manifest.name.lower() and _lost(store, other):
            try:
                check(store, other)
            except (ModelGone, ModelChanged):
                store.remove(other)

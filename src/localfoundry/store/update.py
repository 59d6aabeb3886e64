"""What changed where a version came from, and the step to it: the new version beside the old one, then the name moved.

    manifest ──▶ moving_reference ──▶ plan of today ──▶ changes (pure) ──▶ pull ──▶ refs.move

Nothing of the old version is touched, so going back is a ref and not a download. The chat template is inside the model
file: what of it changed is known once the file is here, or before it where the caller hands in what reads headers
from afar.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from localfoundry.config import Settings
from localfoundry.errors import UsageError
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.sources.reference import HubReference, IndexReference, LocalReference, parse
from localfoundry.store import refs
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.progress import Progress
from localfoundry.store.store import Store

State = Literal["same", "changed", "fixed"]
TemplateReader = Callable[[PullPlan], Awaitable[str | None]]  # SHA-256 of the chat template; None: unknown


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not what it was. `subject` is a file's name; None: not there, or not known."""

    what: Literal["commit", "file added", "file removed", "size", "sha256", "license", "template"]
    subject: str | None
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Upstream:
    """What the source holds today, against `manifest`. `fixed`: the source is one that cannot change.

    `template_read`: the new chat template has been read, so where no change of it is named there is none.
    """

    manifest: Manifest
    state: State
    changes: tuple[Change, ...] = ()
    plan: PullPlan | None = None
    template_read: bool = False


def moving_reference(manifest: Manifest, catalog_source: str | None) -> str | None:
    """What to ask for news of a version, without its commit; None where it cannot change. Pure.

    A wheel never changes, but the catalog may name a newer one; a quantization chosen among others is chosen again.
    """
    if catalog_source is not None and catalog_source.startswith("hf-quantized:"):
        return catalog_source
    try:
        source = parse(manifest.source)
    except UsageError:
        return None
    if isinstance(source, HubReference):
        quantization = f":{source.quantization}" if source.quantization else ""
        return f"hf:{source.repo}" + (f"/{source.path}" if source.path else "") + quantization
    if isinstance(source, IndexReference):
        newer = catalog_source is not None and catalog_source.startswith("pypi:") and catalog_source != manifest.source
        return catalog_source if newer else None
    return manifest.source if isinstance(source, LocalReference) else None


async def ask(
    manifest: Manifest,
    *,
    settings: Settings,
    catalog_source: str | None = None,
    template_of: TemplateReader | None = None,
) -> Upstream:
    """What the source holds today. Fetches no model; a local file is read. Raises as `sources.resolve`."""
    from localfoundry.sources.resolve import resolve

    reference = moving_reference(manifest, catalog_source)
    if reference is None:
        return Upstream(manifest, "fixed")
    plan = _under_its_name(await resolve(reference, settings=settings), manifest)
    plan = await asyncio.to_thread(_with_local_sums, plan, manifest)
    found = changes(manifest, plan)
    template = None
    if template_of is not None and any(c.what == "sha256" for c in found):
        template = await template_of(plan)
        if template is not None and template != manifest.chat_template_sha256:
            found = (*found, Change("template", None, manifest.chat_template_sha256, template))
    moved = any(c.what not in ("commit", "license") for c in found) or (found and _unknown_sums(plan))
    return Upstream(manifest, "changed" if moved else "same", found, plan, template is not None)


def changes(manifest: Manifest, plan: PullPlan) -> tuple[Change, ...]:
    """What differs between a version and a plan of the same name. Pure."""
    found: list[Change] = []
    if manifest.commit != plan.commit:
        found.append(Change("commit", None, manifest.commit, plan.commit))
    old = {f.name: f for f in manifest.files}
    new = {f.name: f for f in plan.files}
    found += [Change("file removed", name, old[name].sha256, None) for name in old if name not in new]
    for name, file in new.items():
        promised = file.member.sha256 if file.member else file.sha256
        if name not in old:
            found.append(Change("file added", name, None, promised))
            continue
        size = file.member.size_bytes if file.member else file.size_bytes
        if size is not None and size != old[name].size_bytes:
            found.append(Change("size", name, str(old[name].size_bytes), str(size)))
        if promised is not None and promised.lower() != old[name].sha256:
            found.append(Change("sha256", name, old[name].sha256, promised.lower()))
    if plan.license and (manifest.license or "").lower() != plan.license.lower():
        found.append(Change("license", None, manifest.license, plan.license))
    return tuple(found)


async def carry_out(
    store: Store, upstream: Upstream, progress: Progress | None = None, *, offline: bool = False
) -> tuple[Manifest, tuple[Change, ...]]:
    """Pull what the source holds today beside the old version and let the name mean it.

    Returns the version and every change, the template's included. Raises as `pull`; pinned names are the caller's to
    leave out, and one that was pinned meanwhile keeps its version.
    """
    from localfoundry.store.pull import pull

    assert upstream.plan is not None
    made = await pull(store, upstream.plan, progress, offline=offline)
    await asyncio.to_thread(refs.move, store, made)
    old = upstream.manifest
    found = tuple(c for c in upstream.changes if c.what != "template")
    if made.chat_template_sha256 != old.chat_template_sha256:
        found = (*found, Change("template", None, old.chat_template_sha256, made.chat_template_sha256))
    return made, found


def _under_its_name(plan: PullPlan, manifest: Manifest) -> PullPlan:
    return msgspec.structs.replace(
        plan,
        name=manifest.name,
        version=None,
        alias=manifest.alias,
        tasks=manifest.tasks,
        license=plan.license or manifest.license,
        quantization=plan.quantization or manifest.quantization,
    )


def _unknown_sums(plan: PullPlan) -> bool:
    return any((f.member.sha256 if f.member else f.sha256) is None for f in plan.files)


def _with_local_sums(plan: PullPlan, manifest: Manifest) -> PullPlan:
    """Sums of local files, so that an unchanged one is seen to be unchanged. Blocking."""
    known = {f.name: f for f in manifest.files}
    return msgspec.structs.replace(plan, files=tuple(_with_sum(file, known.get(file.name)) for file in plan.files))


def _with_sum(file: PlannedFile, known: StoredFile | None) -> PlannedFile:
    same_size = known is not None and file.local is not None and file.size_bytes == known.size_bytes
    if not same_size or file.member is not None or file.sha256 is not None:
        return file
    assert file.local is not None
    return msgspec.structs.replace(file, sha256=_sha256(file.local))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""What carrying out a plan would mean for this disk: what is here, what is to be fetched, what is free then.

Pure reading: makes no file and no folder. The pull refuses by the same figures that `--dry-run` shows. Parts of a
partial count as here when its journal vouches for them; they are checked when the download goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localfoundry.sources.names import sha256_hex
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import disk
from localfoundry.store.journal import vouched_bytes
from localfoundry.store.manifest import Manifest

if TYPE_CHECKING:
    from localfoundry.store.store import Store

MARGIN_BYTES = 16_000_000  # manifests, journals, and what others write meanwhile


@dataclass(frozen=True, slots=True)
class FileOutlook:
    """One file of a plan. Sizes in bytes of what is fetched, None where the source does not tell.

    `needs_bytes` is what it will take on this disk, unpacking included.
    """

    name: str
    sha256: str | None
    size_bytes: int | None
    here_bytes: int
    fetch_bytes: int | None
    needs_bytes: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan and this disk. `present`: the version that is here already, and then nothing is to be done."""

    plan: PullPlan
    present: Manifest | None
    files: tuple[FileOutlook, ...]
    free_bytes: int | None

    @property
    def fetch_bytes(self) -> int | None:
        """Bytes to come over the network; None where a size is unknown."""
        sizes = [f.fetch_bytes for f in self.files]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    @property
    def needs_bytes(self) -> int:
        """Bytes that the disk must have free, with a margin for small files; 0 where all is here."""
        needed = sum(f.needs_bytes for f in self.files)
        return needed + MARGIN_BYTES if needed else 0

    @property
    def free_after_bytes(self) -> int | None:
        return None if self.free_bytes is None else self.free_bytes - sum(f.needs_bytes for f in self.files)

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.needs_bytes <= self.free_bytes


def outlook(store: Store, plan: PullPlan) -> Outlook:
    """Look at the disk for `plan`. Blocking. Raises DiskError and, for sums that are none, NotAModel."""
    present = existing(store, plan)
    files = tuple(_file(store, f, present is not None) for f in plan.files)
    return Outlook(plan, present, files, disk.free_bytes(store.root))


def existing(store: Store, plan: PullPlan) -> Manifest | None:
    """The version on this disk that `plan` would make: same name, and the same bytes or the same pinned source."""
    promised = {f.name: final_sha256(f) for f in plan.files}
    found = [
        m
        for m in store.manifests()
        if m.name.lower() == plan.name.lower() and plan.version in (None, m.version) and _same(m, plan, promised)
    ]
    return max(found, key=lambda m: m.version, default=None)


def final_sha256(file: PlannedFile) -> str | None:
    """The promised sum of what is kept: of the member, where the fetched file is an archive."""
    promised = file.member.sha256 if file.member else file.sha256
    return sha256_hex(promised) if promised else None


def part_key(file: PlannedFile) -> str:
    """The name of a partial: by its sum, where one is promised, so that every address of the same bytes shares it."""
    if file.sha256:
        return sha256_hex(file.sha256)
    return "url-" + hashlib.sha256(str(file.url).encode()).hexdigest()[:40]


def _same(manifest: Manifest, plan: PullPlan, promised: dict[str, str | None]) -> bool:
    if None not in promised.values():
        return {f.name: f.sha256 for f in manifest.files} == promised
    pinned = plan.source.startswith("pypi:") or plan.commit is not None
    return pinned and manifest.source == plan.source


def _file(store: Store, file: PlannedFile, present: bool) -> FileOutlook:
    promised = final_sha256(file)
    if present or (promised and store.blob(promised).exists()):
        return FileOutlook(file.name, promised, file.size_bytes, file.size_bytes or 0, 0, 0)
    unpacked = (file.member.size_bytes or file.size_bytes or 0) if file.member else 0
    if file.local is not None:
        size = file.size_bytes
        with contextlib.suppress(OSError):
            size = file.local.stat().st_size
        return FileOutlook(file.name, promised, size, 0, 0, unpacked or size or 0)
    here = vouched_bytes(store.partial / f"{part_key(file)}.jsonl")
    rest = None if file.size_bytes is None else max(0, file.size_bytes - here)
    return FileOutlook(file.name, promised, file.size_bytes, here, rest, (rest or 0) + unpacked)

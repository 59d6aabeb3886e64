"""What a pull will do, as a frozen value that can be shown before anything is done.

A source turns a reference into a plan; the store carries it out. The plan pins everything that can move: the commit
of a repository, the address, size and SHA-256 of each file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class ArchiveMember(msgspec.Struct, frozen=True):
    """A file inside a zip archive (a wheel): what is kept of it, and what that must hash to."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


class PlannedFile(msgspec.Struct, frozen=True):
    """One file of a plan. `name` is what it is called in the store: a relative path without `..`.

    Exactly one of `url` and `local` is set. `size_bytes` and `sha256` are those of what is fetched; None where the
    source does not tell, and then the hash is computed on arrival. `member` is set where the fetched file is an
    archive of which only one file is wanted.
    """

    name: str
    url: str | None = None
    local: Path | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    member: ArchiveMember | None = None
    headers: tuple[tuple[str, str], ...] = ()  # sent to the host of `url` only, never to where it redirects


class PullPlan(msgspec.Struct, frozen=True):
    """Everything the store needs to make one version: identity, where it is from, and the files."""

    name: str  # variant name: no colon, no slash
    version: int | None  # None: the store takes the next free number, or the existing one with the same bytes
    alias: str
    source: str  # pinned reference, e.g. hf:org/repo@<commit>:file.gguf, pypi:name==1.0:path, file:/path
    format: str
    files: tuple[PlannedFile, ...]
    commit: str | None = None
    license: str | None = None
    quantization: str | None = None
    tasks: tuple[str, ...] = ("chat",)
    notes: tuple[str, ...] = ()  # what the person should know of the choice that was made

    @property
    def size_bytes(self) -> int | None:
        """Bytes to fetch; None where any file's size is unknown."""
        sizes = [f.size_bytes for f in self.files]
        return None if any(s is None for s in sizes) else sum(s for s in sizes if s is not None)

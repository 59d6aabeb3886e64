"""Bundles made by hand, so that tests can make every wrong one too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import msgspec

from localfoundry.store.bundle import BLOCK, Index, header, layout, padding
from localfoundry.store.manifest import Manifest, StoredFile


def manifest_of(name: str, files: dict[str, bytes], **changes: Any) -> Manifest:
    stored = tuple(StoredFile(n, len(d), hashlib.sha256(d).hexdigest()) for n, d in files.items())
    made = Manifest(name, 1, name, f"hf:org/{name}", "gguf", stored, "2026-11-01T00:00:00+00:00")
    return msgspec.structs.replace(made, **changes)


def document(versions: dict[str, dict[str, bytes]]) -> dict[str, Any]:
    """The index as JSON values, to be changed by the test."""
    blobs = {hashlib.sha256(d).hexdigest(): len(d) for files in versions.values() for d in files.values()}
    index = {
        "format": "localfoundry-bundle", "version": 1, "created_at": "2026-11-01", "created_by": "test",
        "manifests": [msgspec.to_builtins(manifest_of(n, f)) for n, f in versions.items()],
        "blobs": [{"sha256": s, "size_bytes": n} for s, n in blobs.items()],
    }  # fmt: skip
    return cast("dict[str, Any]", json.loads(json.dumps(index)))


def packed(index: dict[str, Any] | bytes, data: dict[str, bytes]) -> bytes:
    """A file around an index; `data` by sum. The layout is that of a right bundle as far as the index allows."""
    body = index if isinstance(index, bytes) else msgspec.json.encode(index)
    members, _ = layout(msgspec.json.decode(body, type=Index), len(body))
    parts = []
    for member in members:
        content = body if member.sha256 is None else data[member.sha256]
        parts.append(member.header + content + bytes(padding(len(content))))
    return b"".join(parts) + bytes(2 * BLOCK)


def write_bundle(path: Path, versions: dict[str, dict[str, bytes]]) -> bytes:
    data = {hashlib.sha256(d).hexdigest(): d for files in versions.values() for d in files.values()}
    made = packed(document(versions), data)
    path.write_bytes(made)
    return made


def one_member(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content + bytes(padding(len(content)))

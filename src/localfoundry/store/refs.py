"""Which version of a name is meant when no version is said: the newest, unless a person or an update decided otherwise.

    refs/<name>.json     one decision, replaced in one step; without it, or where it is void, the newest is meant

| state of a name | meant | a newer version appears |
|---|---|---|
| no ref | the newest | it is meant |
| moved (an update, a rollback) | the one moved to | it is meant: it was pulled after the decision |
| pinned | the one pinned | the pinned one still |

A ref names its version by number and by the moment it was made, because numbers are used again after a removal. So a
ref can be stale but never wrong, and nothing has to be repaired after a crash. What a ref decides is pure (`current`,
`rolled_back`); writing takes the store's gate, so that two processes decide one after the other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localfoundry.errors import UsageError
from localfoundry.sources.names import variant_name
from localfoundry.store import disk
from localfoundry.store.manifest import Manifest

if TYPE_CHECKING:
    from localfoundry.store.store import Store

_HISTORY = 50


class Ref(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision. Versions are named by `created_at`; `history` holds those meant before, the latest last."""

    version: int
    created_at: str
    moved_at: str  # ISO 8601, UTC
    pinned: bool = False
    seen: tuple[str, ...] = ()  # versions that were there when it was decided
    history: tuple[str, ...] = ()


def newest(versions: Iterable[Manifest]) -> Manifest:
    """The highest version; `versions` is not empty."""
    return max(versions, key=lambda m: (m.version, m.created_at))


def current(ref: Ref | None, versions: Sequence[Manifest]) -> Manifest:
    """The version that a name means; `versions` are all of that name, at least one. Pure."""
    top = newest(versions)
    if ref is None:
        return top
    meant = next((m for m in versions if (m.version, m.created_at) == (ref.version, ref.created_at)), None)
    if meant is None or (not ref.pinned and any(m.created_at not in ref.seen for m in versions)):
        return top
    return meant


def holds(ref: Ref | None, versions: Sequence[Manifest]) -> bool:
    """Whether the name is pinned to a version that is here. Pure."""
    return ref is not None and ref.pinned and current(ref, versions).created_at == ref.created_at


def before(ref: Ref | None, versions: Sequence[Manifest]) -> Manifest | None:
    """The version that was meant before the current one, or else the next lower one; None where there is none. Pure."""
    now = current(ref, versions)
    if ref is not None and now.created_at == ref.created_at:
        by_moment = {m.created_at: m for m in versions}
        past = [by_moment[moment] for moment in ref.history if moment in by_moment and moment != now.created_at]
        if past:
            return past[-1]
    return max((m for m in versions if m.version < now.version), key=lambda m: m.version, default=None)


def pinned(versions: Iterable[Manifest], refs: Mapping[str, Ref]) -> set[str]:
    """Ids of the versions that are pinned. Pure."""
    named: dict[str, list[Manifest]] = {}
    for manifest in versions:
        named.setdefault(manifest.name, []).append(manifest)
    return {current(refs[n], found).id for n, found in named.items() if n in refs and holds(refs[n], found)}


def read(folder: Path) -> dict[str, Ref]:
    """Every ref by name. One that cannot be read counts as none: the newest version is then meant."""
    try:
        entries = [entry.path for entry in os.scandir(folder) if entry.name.endswith(".json")]
    except OSError:
        return {}
    found = {}
    for path in entries:
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            found[Path(path).name.removesuffix(".json")] = msgspec.json.decode(Path(path).read_bytes(), type=Ref)
    return found


# Decisions written down


def move(store: Store, manifest: Manifest) -> bool:
    """Let the name of `manifest` mean that version; False where it is pinned to another. Raises DiskError."""
    with store.gate():
        ref, versions = _state(store, manifest.name)
        if holds(ref, versions):
            return current(ref, versions) == manifest
        _write(store, manifest.name, _decided(ref, versions, manifest))
        return True


def pin(store: Store, manifest: Manifest) -> Manifest:
    """Let the name mean this version until `unpin`, whatever is pulled. Raises DiskError."""
    with store.gate():
        ref, versions = _state(store, manifest.name)
        _write(store, manifest.name, msgspec.structs.replace(_decided(ref, versions, manifest), pinned=True))
    return manifest


def unpin(store: Store, name: str) -> Manifest | None:
    """Let updates move the name again; the version it means stays until then. None where it was not pinned."""
    with store.gate():
        ref, versions = _state(store, name)
        if ref is None or not versions or not holds(ref, versions):
            return None
        seen = tuple(m.created_at for m in versions)
        _write(store, name, msgspec.structs.replace(ref, pinned=False, seen=seen, moved_at=_now()))
        return current(ref, versions)


def rollback(store: Store, name: str) -> tuple[Manifest, Manifest]:
    """Let the name mean the version before; returns both, the one left first. Raises UsageError and DiskError."""
    with store.gate():
        ref, versions = _state(store, name)
        if not versions:
            raise UsageError(f"no version of {name} is here", hint="foundry cache list")
        now, target = current(ref, versions), before(ref, versions)
        if holds(ref, versions):
            raise UsageError(f"{now.id} is pinned, and a rollback would unpin it", hint=f"foundry model unpin {name}")
        if target is None:
            raise UsageError(
                f"{now.id} has no version before it on this disk", hint=f"foundry model versions {now.alias}"
            )
        history = ref.history if ref else ()
        if target.created_at in history:
            history = history[: len(history) - 1 - history[::-1].index(target.created_at)]
        decided = _decided(ref, versions, target)
        _write(store, name, msgspec.structs.replace(decided, history=history))
        return now, target


def forget(store: Store, name: str) -> None:
    """Remove the ref of a name without versions. The caller holds the gate."""
    with contextlib.suppress(OSError):
        disk.remove_file(_path(store, name))


def _state(store: Store, name: str) -> tuple[Ref | None, list[Manifest]]:
    return read(store.refs).get(name), [m for m in store.manifests() if m.name == name]


def _decided(ref: Ref | None, versions: Sequence[Manifest], target: Manifest) -> Ref:
    now = current(ref, versions)
    history = ref.history if ref else ()
    if now.created_at != target.created_at:
        history = (*history, now.created_at)[-_HISTORY:]
    return Ref(
        version=target.version,
        created_at=target.created_at,
        moved_at=_now(),
        seen=tuple(m.created_at for m in versions),
        history=history,
    )


def _write(store: Store, name: str, ref: Ref) -> None:
    target = _path(store, name)
    with disk.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_bytes(target, msgspec.json.encode(ref) + b"\n")


def _path(store: Store, name: str) -> Path:
    return store.refs / f"{variant_name(name)}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

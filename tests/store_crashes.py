"""What the crash tests of adopting and of bundles share: a store that must be sound whatever happened."""

from __future__ import annotations

import hashlib

from localfoundry.store.store import Store


def assert_sound(store: Store) -> None:
    """Every version is whole, every blob is what its name says, and cleaning leaves nothing behind."""
    assert store.damaged() == []
    for blob in store.blobs.glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for manifest in store.manifests():
        for file in manifest.files:
            data = (store.folder(manifest) / file.name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)


def assert_clean(store: Store) -> None:
    assert store.plan_clean().is_empty, store.plan_clean()
    assert [p for p in store.tmp.iterdir() if p.suffix != ".lock"] == []

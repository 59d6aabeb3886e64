"""Importing a bundle of two versions, for `crash_points`."""

from __future__ import annotations

from pathlib import Path

from bundles import write_bundle
from localfoundry.store.bundle import opened
from localfoundry.store.bundle_import import import_bundle, plan_import
from localfoundry.store.store import Store
from store_crashes import assert_clean, assert_sound
from tiny_gguf import tiny_gguf


def make(folder: Path) -> None:
    write_bundle(folder / "b.bundle", {"one": {"one.gguf": tiny_gguf()}, "two": {"two.gguf": tiny_gguf(seed=2)}})


def work(folder: Path) -> None:
    store = Store(folder / "store")
    with opened(folder / "b.bundle") as bundle:
        import_bundle(store, bundle, plan_import(store, bundle))


def check(folder: Path) -> None:
    assert_sound(Store(folder / "store"))


def check_done(folder: Path) -> None:
    store = Store(folder / "store")
    assert [m.id for m in store.manifests()] == ["one:1", "two:1"]
    store.execute(store.plan_clean())
    assert_clean(store)

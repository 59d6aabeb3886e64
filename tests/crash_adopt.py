"""Adopting from Ollama's store, for `crash_points`."""

from __future__ import annotations

from pathlib import Path

from localfoundry.sources import ollama
from localfoundry.store.adopt import adopt
from localfoundry.store.adopted import state_of
from localfoundry.store.store import Store
from owner_stores import ollama_model, sha256
from store_crashes import assert_clean, assert_sound
from tiny_gguf import tiny_gguf


def make(folder: Path) -> None:
    ollama_model(folder / "ollama", license=b"MIT License", template=b"{{ .Prompt }}")


def work(folder: Path) -> None:
    for model in ollama.scan(folder / "ollama").models:
        adopt(Store(folder / "store"), model)


def check(folder: Path) -> None:
    assert_sound(Store(folder / "store"))
    blob = folder / "ollama" / "blobs" / f"sha256-{sha256(tiny_gguf())}"
    assert blob.read_bytes() == tiny_gguf() and blob.stat().st_mode & 0o200


def check_done(folder: Path) -> None:
    store = Store(folder / "store")
    (manifest,) = store.manifests()
    state = state_of(store, manifest)
    assert state is not None and state.state == "shared"
    assert_clean(store)

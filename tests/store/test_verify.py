"""Damage of every kind is found, named and mended from the cheapest place; what is healthy is never touched."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import Foundry
from hub_server import Faults, HubServer, Repo
from localfoundry import config
from localfoundry.errors import ChecksumMismatch, SourceError
from localfoundry.sources.resolve import resolve
from localfoundry.store.journal import CHUNK_BYTES
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from localfoundry.store.repair import Repaired, repair
from localfoundry.store.store import Store, chunks_beside
from localfoundry.store.verify import Checked, ChunkSums, verify
from tiny_gguf import tiny_gguf

DATA = tiny_gguf(3 * CHUNK_BYTES + 4096)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def manifest(hub: HubServer, store: Store) -> Manifest:
    async def work() -> Manifest:
        return await pull(store, await resolve("org/tiny-GGUF", settings=config.load()))

    return asyncio.run(work())


def flip(path: Path, *offsets: int) -> None:
    """Change bytes behind the back of every name that the file has."""
    path.chmod(0o644)
    with path.open("rb+") as stream:
        for offset in offsets:
            stream.seek(offset)
            byte = stream.read(1)
            stream.seek(offset)
            stream.write(bytes([byte[0] ^ 0xFF]))


def only(store: Store) -> Checked:
    (checked,) = verify(store, store.manifests())
    return checked


def mend(store: Store) -> Repaired:
    done = asyncio.run(repair(store, only(store), settings=config.load()))
    assert done is not None
    return done


def assert_whole(store: Store, manifest: Manifest) -> None:
    assert only(store).is_healthy
    blob = store.blob(SHA)
    assert blob.read_bytes() == DATA
    assert blob.samefile(store.main_file(manifest)), "one set of bytes, two names"
    assert blob.stat().st_mode & 0o222 == 0
    assert not any(store.tmp.iterdir())


def test_a_healthy_blob_gets_the_sums_of_its_chunks(store: Store, manifest: Manifest) -> None:
    chunks_beside(store.blob(SHA)).unlink(missing_ok=True)
    assert only(store).is_healthy
    sums = msgspec.json.decode(chunks_beside(store.blob(SHA)).read_bytes(), type=ChunkSums)
    pieces = [DATA[i : i + CHUNK_BYTES] for i in range(0, len(DATA), CHUNK_BYTES)]
    assert sums == ChunkSums(CHUNK_BYTES, tuple(hashlib.sha256(p).hexdigest() for p in pieces))
    assert store.plan_clean().is_empty, "sums belong to their blob"
    store.remove(manifest)
    assert not any(store.blobs.iterdir())


def test_only_bad_chunks_are_fetched_again(hub: HubServer, store: Store, manifest: Manifest) -> None:
    """ollama #941, #8105: one wrong byte and everything was fetched again."""
    only(store)  # writes the sums
    flip(store.main_file(manifest), CHUNK_BYTES + 5, 3 * CHUNK_BYTES + 1)
    (bad,) = only(store).bad
    assert [(s.offset, s.size_bytes) for s in bad.spans] == [(CHUNK_BYTES, CHUNK_BYTES), (3 * CHUNK_BYTES, 4096)]
    served = hub.served
    assert mend(store) == Repaired(SHA, "chunks", CHUNK_BYTES + 4096)
    assert hub.served - served == CHUNK_BYTES + 4096
    assert_whole(store, manifest)


@pytest.mark.parametrize("fault", [Faults(ignore_range=True), Faults(times=1, corrupt_at=CHUNK_BYTES + 9),
                                   Faults(times=1, wrong_content_range=True)])  # fmt: skip
def test_a_source_without_right_ranges_gives_the_whole_file(
    hub: HubServer, store: Store, manifest: Manifest, fault: Faults
) -> None:
    only(store)
    flip(store.blob(SHA), CHUNK_BYTES + 5)
    hub.faults = Faults(**vars(fault))
    assert mend(store).how == "file"
    assert_whole(store, manifest)


def test_without_sums_the_file_is_fetched_again(hub: HubServer, store: Store, manifest: Manifest) -> None:
    flip(store.blob(SHA), 7)
    chunks_beside(store.blob(SHA)).unlink(missing_ok=True)
    assert only(store).bad[0].spans == ()
    assert mend(store) == Repaired(SHA, "file", len(DATA))
    assert_whole(store, manifest)
    assert chunks_beside(store.blob(SHA)).exists()


def test_a_healthy_copy_needs_no_network(hub: HubServer, store: Store, manifest: Manifest) -> None:
    store.blob(SHA).unlink()
    served = hub.served
    assert [c.problem for c in only(store).bad] == ["missing"]
    assert mend(store) == Repaired(SHA, "linked", 0)
    assert_whole(store, manifest)
    store.main_file(manifest).unlink()
    assert mend(store).how == "linked"
    assert hub.served == served
    assert_whole(store, manifest)


def test_everything_gone_is_fetched(hub: HubServer, store: Store, manifest: Manifest) -> None:
    store.blob(SHA).unlink()
    store.main_file(manifest).unlink()
    assert mend(store).how == "file"
    assert_whole(store, manifest)


@given(cut=st.integers(0, len(DATA) + 5), offsets=st.lists(st.integers(0, len(DATA) - 1), max_size=3))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_found_and_mended(
    hub: HubServer, store: Store, manifest: Manifest, cut: int, offsets: list[int]
) -> None:
    assert only(store).is_healthy
    blob = store.blob(SHA)
    flip(blob, *offsets)
    os.truncate(blob, cut)
    wrong = blob.read_bytes() != DATA
    found = only(store)
    assert found.is_healthy != wrong
    if wrong:
        touched = {o // CHUNK_BYTES for o in offsets}
        assert {s.offset // CHUNK_BYTES for s in found.bad[0].spans} <= touched | set(range(cut // CHUNK_BYTES, 4))
        served = hub.served
        mended = mend(store)
        assert hub.served - served == mended.fetched_bytes <= len(DATA)
    blob.chmod(0o444)
    assert_whole(store, manifest)


def test_a_source_that_moved_on_is_named_and_nothing_is_replaced(
    hub: HubServer, store: Store, manifest: Manifest
) -> None:
    chunks_beside(store.blob(SHA)).unlink(missing_ok=True)
    flip(store.blob(SHA), 7)
    chunks_beside(store.blob(SHA)).unlink(missing_ok=True)
    before = store.blob(SHA).read_bytes()
    hub.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": random.Random(1).randbytes(len(DATA))})
    with pytest.raises(SourceError, match="no longer holds"):
        mend(store)
    assert store.blob(SHA).read_bytes() == before
    hub.repos["org/tiny-GGUF"].lie_sha256 = SHA
    with pytest.raises(ChecksumMismatch):
        mend(store)
    assert store.blob(SHA).read_bytes() == before


def test_the_command(hub: HubServer, foundry: Foundry, store: Store, manifest: Manifest) -> None:
    assert "1 files of 1 versions are what they were" in foundry.ok("cache", "verify").out
    flip(store.blob(SHA), 2 * CHUNK_BYTES)
    found = foundry("cache", "verify", "tiny-gguf")
    assert found.code == 4 and f"bytes {2 * CHUNK_BYTES}-{3 * CHUNK_BYTES - 1}" in found.out
    assert "foundry cache verify --repair" in found.err
    (row,) = json.loads(foundry("cache", "verify", "--json").out)["files"]
    assert row["problems"][0]["ranges"] == [{"offset": 2 * CHUNK_BYTES, "sizeBytes": CHUNK_BYTES}]
    (row,) = foundry.ok("cache", "verify", "--repair", "--json").json["files"]
    assert (row["state"], row["how"], row["fetchedBytes"]) == ("repaired", "chunks", CHUNK_BYTES)
    assert_whole(store, manifest)

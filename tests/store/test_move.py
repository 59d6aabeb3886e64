"""`cache cd PATH --move`: what is refused before anything is touched, and what the move keeps."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.errors import ChecksumMismatch, DiskFull, UsageError
from localfoundry.instance import ServiceState
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import disk, refs
from localfoundry.store.manifest import Manifest
from localfoundry.store.move import execute, plan_move
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from localfoundry.store.verify import verify
from tiny_gguf import tiny_gguf


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, tmp_path: Path, name: str, seed: int = 1) -> Manifest:
    path = tmp_path / f"{name}-{seed}.gguf"
    path.write_bytes(tiny_gguf(seed=seed))
    plan = PullPlan(name, None, name, f"file:{path}", "gguf", (PlannedFile("m.gguf", local=path),))
    return asyncio.run(pull(store, plan))


@pytest.mark.parametrize("links", [True, False])
def test_everything_is_there_afterwards_and_nothing_foreign_is_touched(
    store: Store, tmp_path: Path, links: bool
) -> None:
    first = add(store, tmp_path, "m", 1)
    second, twin = add(store, tmp_path, "m", 2), add(store, tmp_path, "twin", 2)
    refs.pin(store, first)
    (store.root / "mine.txt").write_text("not yours")
    there = Store(tmp_path / "there")
    plan = plan_move(store, there.root)
    assert plan.links, "tmp_path is one file system"
    plan = dataclasses.replace(plan, links=links)
    moved: list[Path] = []
    execute(plan, moved.append)
    assert moved == [there.root]
    assert there.manifests() == [first, second, twin] and there.find("m") == first
    assert all(c.is_healthy for c in verify(there, there.manifests()))
    assert there.main_file(second).samefile(there.main_file(twin)), "shared bytes are still shared"
    assert there.main_file(first).stat().st_mode & 0o222 == 0
    assert [p.name for p in store.root.iterdir()] == ["mine.txt"]
    assert not (there.root / "moving.json").exists() and there.plan_clean().is_empty


def test_what_was_removed_since_a_killed_try_does_not_come_back(store: Store, tmp_path: Path) -> None:
    first, second = add(store, tmp_path, "m", 1), add(store, tmp_path, "m", 2)
    target = tmp_path / "there"

    def die(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan_move(store, target), die)
    assert store.manifests() == [first, second], "until the switch the old place is whole"
    store.remove(second)
    execute(plan_move(store, target), lambda _: None)
    assert Store(target).manifests() == [first] and Store(target).damaged() == []
    Store(target).execute(Store(target).plan_clean())  # while two stores had a name for them, its bytes could not go
    assert len(list(Store(target).blobs.iterdir())) == 1


def test_a_damaged_blob_stops_a_copy_before_the_switch(store: Store, tmp_path: Path) -> None:
    manifest = add(store, tmp_path, "m")
    blob = store.blob(manifest.files[0].sha256)
    blob.chmod(0o644)
    blob.write_bytes(bytes(4096))
    plan = dataclasses.replace(plan_move(store, tmp_path / "there"), links=False)
    with pytest.raises(ChecksumMismatch, match="nothing was switched"):
        execute(plan, lambda _: pytest.fail("switched"))
    assert store.manifests() == [manifest]


def test_what_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, tmp_path, "m")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for target, words in ((store.root / "in", "inside"), (tmp_path, "inside"), (tmp_path / "full", "not empty"),
                          (store.root, "already")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            plan_move(store, target)
    with disk.held(store.tmp / "some.lock"), pytest.raises(UsageError, match="being downloaded"):
        plan_move(store, tmp_path / "there")
    monkeypatch.setattr("localfoundry.store.move._one_file_system", lambda *_: False)
    monkeypatch.setattr(disk, "free_bytes", lambda _: 1000)
    with pytest.raises(DiskFull, match=r"1\.0 kB are free"):
        plan_move(store, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_the_command(foundry: Foundry, service: ServiceState, fake_model: Callable[..., str], tmp_path: Path) -> None:
    alias = fake_model("moved")
    target = str(tmp_path / "there")
    refused = foundry("cache", "cd", target, "--move")
    assert refused.code == 2 and "foundry service stop" in refused.err
    foundry.ok("service", "stop")
    elsewhere = foundry("cache", "cd", target, "--move", env={"FOUNDRY_CACHE_DIR": str(tmp_path / "env")})
    assert elsewhere.code == 2 and "FOUNDRY_CACHE_DIR" in elsewhere.err
    moved = foundry.ok("cache", "cd", target, "--move", "--json")
    assert moved.json == {"location": target} and "without copying" in moved.err
    assert config.load().models_dir == Path(target)
    assert Store(Path(target)).find(alias) is not None
    assert not (config.load().home / "models").exists()
    assert foundry("cache", "cd", target, "--move").code == 2

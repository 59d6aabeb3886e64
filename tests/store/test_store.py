"""What the store tells and removes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import disk, refs
from localfoundry.store.journal import Head, PartFile
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.pull import pull
from localfoundry.store.store import Store, main_name
from tiny_gguf import tiny_gguf


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, tmp_path: Path, name: str, seed: int = 0, alias: str = "alias") -> Manifest:
    path = tmp_path / f"{name}-{seed}.gguf"
    path.write_bytes(tiny_gguf(seed=seed))
    plan = PullPlan(name, None, alias, f"file:{path}", "gguf", (PlannedFile(f"{name}.gguf", local=path),))
    return asyncio.run(pull(store, plan))


def test_a_missing_root_is_an_empty_store(store: Store) -> None:
    assert store.manifests() == [] and store.damaged() == [] and store.partials() == []
    assert store.find("x") is None and store.plan_clean().is_empty
    assert store.execute(store.plan_clean()) == 0
    assert not store.root.exists()


def test_an_alias_means_the_highest_version(store: Store, tmp_path: Path) -> None:
    first, second = add(store, tmp_path, "m", 0), add(store, tmp_path, "m", 1)
    assert (first.version, second.version) == (1, 2)
    assert store.find("ALIAS") == second == store.find("M")
    assert store.find("m:1") == first


def test_a_damaged_manifest_is_reported_and_its_bytes_stay(store: Store, tmp_path: Path) -> None:
    good, bad = add(store, tmp_path, "good", 0), add(store, tmp_path, "bad", 1)
    (store.folder(bad) / "manifest.json").write_text("{")
    evil = msgspec.structs.replace(good, name="evil", files=(StoredFile("../../x", 1, "0" * 64),))
    (store.models / "evil" / "1").mkdir(parents=True)
    (store.models / "evil" / "1" / "manifest.json").write_bytes(msgspec.json.encode(evil))
    assert store.manifests() == [good]
    assert sorted(d.path.parent.name for d in store.damaged()) == ["bad", "evil"]
    assert store.plan_clean().blobs == ()
    assert store.next_version("bad") == 2


def test_clean_removes_exactly_its_plan(store: Store, tmp_path: Path) -> None:
    kept = add(store, tmp_path, "kept")
    orphan = store.blob("a" * 64)
    orphan.write_bytes(b"x" * 1000)
    disk.make_read_only(orphan)
    with PartFile(store.partial / "k.part", Head("big.gguf", 10**9)) as part:
        part.write(0, b"y" * 500)
    (store.tmp / "crashed").mkdir()
    (store.tmp / "crashed" / "f").write_bytes(b"z" * 70)
    plan = store.plan_clean()
    assert (plan.blobs, [p.name for p in plan.partials], plan.size_bytes) == ((orphan,), ["big.gguf"], 1570)
    assert store.execute(plan) >= 1570
    assert store.plan_clean().is_empty
    assert store.main_file(kept).read_bytes() == tiny_gguf()
    assert not any(store.partial.iterdir()) and not any(store.tmp.iterdir())


def test_clean_leaves_a_partial_that_another_process_holds(store: Store) -> None:
    """ollama #14177, lemonade #1680: clean-up deleted what was needed."""
    store.prepare()
    with PartFile(store.partial / "k.part", Head("big.gguf")) as part:
        part.write(0, b"y" * 500)
    plan = store.plan_clean()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import filelock, sys; l = filelock.FileLock(sys.argv[1]); l.acquire(); print('held', "
         "flush=True); sys.stdin.read()", str(store.partial / "k.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    try:
        assert [p.in_use for p in store.partials()] == [True]
        assert store.plan_clean().partials == ()
        assert store.execute(plan) == 0  # planned before the other process came
        assert (store.partial / "k.part").exists()
    finally:
        holder.communicate("")


def test_clean_leaves_blobs_alone_while_anything_is_pulled(store: Store) -> None:
    store.prepare()
    store.blob("a" * 64).write_bytes(b"x")
    plan = store.plan_clean()
    with disk.held(store.tmp / "some-pull.lock"):
        assert store.plan_clean().blobs == ()
        assert store.execute(plan) == 0
    assert store.execute(plan) == 1


def test_without_hard_links_a_version_is_a_copy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk.os, "link", refuse)
    manifest = add(store, tmp_path, "m")
    assert store.main_file(manifest).read_bytes() == tiny_gguf()
    assert store.remove(manifest) >= 2 * len(tiny_gguf())


@pytest.mark.parametrize(
    ("format", "names", "main"),
    [
        ("gguf", ["b-00002-of-00002.gguf", "b-00001-of-00002.gguf"], "b-00001-of-00002.gguf"),
        ("gguf", ["a-mmproj.gguf", "b.gguf"], "b.gguf"),
        ("fake", ["x.fake.json"], "x.fake.json"),
        ("onnx", ["genai_config.json"], None),
    ],
)
def test_the_main_file(format: str, names: list[str], main: str | None) -> None:
    assert main_name(format, names) == main


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from localfoundry.store.store import Store\n"
        "Store(Path('x')).manifests()\n"
        "heavy = ('httpx2', 'huggingface_hub', 'rich', 'asyncio', 'filelock', 'truststore')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_stamp_changes_with_every_version_and_ref(store: Store, tmp_path: Path) -> None:
    """The service keeps what `find` said for as long as the stamp is the same."""
    seen = [store.stamp()]
    first = add(store, tmp_path, "one", 1)
    seen.append(store.stamp())
    add(store, tmp_path, "one", 2)
    seen.append(store.stamp())
    refs.pin(store, first)
    seen.append(store.stamp())
    refs.unpin(store, "one")
    seen.append(store.stamp())
    store.remove(first)
    seen.append(store.stamp())
    assert len(set(seen)) == len(seen)
    assert store.stamp() == store.stamp()

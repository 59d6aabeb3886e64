"""Bytes are counted right and only what may go goes: the plan as properties, the commands on a real store."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Foundry
from localfoundry.instance import ServiceState
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import refs, space
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.pull import pull
from localfoundry.store.space import Rules, Use, plan_removal
from localfoundry.store.store import Store
from localfoundry.units import parse_duration
from tiny_gguf import tiny_gguf

DAY = 86_400


def add(store: Store, tmp_path: Path, name: str, seed: int) -> Manifest:
    path = tmp_path / f"{name}-{seed}.gguf"
    path.write_bytes(tiny_gguf(seed=seed))
    plan = PullPlan(name, None, name, f"file:{path}", "gguf", (PlannedFile(f"{name}.gguf", local=path),))
    return asyncio.run(pull(store, plan))


def use(name: str, version: int, age_days: float, protected: str = "", blob: int = 0, size: int = 100) -> Use:
    sha = f"{blob or hash((name, version)) % 10**12:064x}"
    files = (StoredFile("f", size, sha),)
    return Use(Manifest(name, version, name, "file:/f", "gguf", files, "2026-01-01"), -age_days * DAY, protected)


def ids(found: tuple[Use, ...]) -> list[str]:
    return sorted(u.manifest.id for u in found)


def test_the_rules() -> None:
    everything = [use("a", 1, 90), use("a", 2, 60), use("a", 3, 1), use("b", 1, 40, "pinned"), use("c", 1, 50)]
    assert ids(plan_removal(everything, Rules(older_than_s=30 * DAY), 0).doomed) == ["a:1", "a:2", "c:1"]
    assert ids(plan_removal(everything, Rules(older_than_s=30 * DAY), 0).spared) == ["b:1"]
    assert ids(plan_removal(everything, Rules(keep=1), 0).doomed) == ["a:1", "a:2"]
    assert ids(plan_removal(everything, Rules(older_than_s=30 * DAY, keep=2), 0).doomed) == ["a:1"]
    fitting = plan_removal(everything, Rules(max_bytes=300), 0)
    assert (ids(fitting.doomed), fitting.left_bytes) == (["a:1", "a:2"], 300)
    assert plan_removal(everything, Rules(max_bytes=500), 0).doomed == ()


def test_bytes_that_stay_with_another_version_are_not_freed() -> None:
    everything = [use("a", 1, 90, blob=7), use("a", 2, 1, blob=7), use("b", 1, 80)]
    plan = plan_removal(everything, Rules(older_than_s=30 * DAY), 0)
    assert (ids(plan.doomed), plan.freed_bytes, plan.left_bytes) == (["a:1", "b:1"], 100, 100)


USES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 100), st.sampled_from(["", "", "pinned"]),
              st.integers(1, 6)),
    max_size=10, unique_by=lambda t: t[:2],
).map(lambda rows: [use(n, v, age, why, blob) for n, v, age, why, blob in rows])  # fmt: skip


@given(
    everything=USES,
    older=st.none() | st.integers(0, 100),
    keep=st.none() | st.integers(1, 3),
    most=st.none() | st.integers(0, 700),
)
@settings(max_examples=150)
def test_whatever_the_rules_nothing_protected_goes(
    everything: list[Use], older: int | None, keep: int | None, most: int | None
) -> None:
    plan = plan_removal(everything, Rules(None if older is None else older * DAY, keep, most), 0)
    assert all(not u.protected for u in plan.doomed)
    assert len({u.manifest.id for u in (*plan.doomed, *plan.spared)}) == len(plan.doomed) + len(plan.spared)
    left = [u for u in everything if u not in plan.doomed]
    assert plan.left_bytes == sum({f.sha256: f.size_bytes for u in left for f in u.manifest.files}.values())
    if keep is not None:
        for name in {u.manifest.name for u in everything}:
            top = sorted((u.manifest.version for u in everything if u.manifest.name == name), reverse=True)[:keep]
            assert set(top) <= {u.manifest.version for u in left if u.manifest.name == name}
    if most is not None and keep is None and not plan.spared:
        assert plan.left_bytes <= most


def test_accounts_agree_with_what_a_removal_frees(store: Store, tmp_path: Path) -> None:
    one, twin, other = add(store, tmp_path, "one", 1), add(store, tmp_path, "twin", 1), add(store, tmp_path, "other", 2)
    accounts = {a.manifest.name: a for a in space.measure(store).accounts}
    assert accounts["one"].shared_bytes == accounts["twin"].shared_bytes == len(tiny_gguf())
    assert space.shared_bytes(store.manifests()) == {one.id: 4096, twin.id: 4096, other.id: 0}
    assert store.remove(other) == accounts["other"].exclusive_bytes
    assert store.remove(one) == accounts["one"].exclusive_bytes < 2000
    found = space.measure(store)
    assert found.accounts[0].exclusive_bytes == store.remove(twin) >= len(tiny_gguf())
    assert space.measure(store).blob_bytes == 0


def test_last_use_comes_from_loads(
    foundry: Foundry, service: ServiceState, fake_model: Callable[..., str], store: Store
) -> None:
    alias = fake_model("used")
    assert [m["lastUsed"] for m in foundry.ok("cache", "list", "--json").json["models"]] == [None]
    foundry.ok("model", "load", alias)
    (found,) = foundry.ok("cache", "list", "--json").json["models"]
    assert found["lastUsed"] is not None and abs(space.last_loads(store)["used:1"] - time.time()) < 60
    refused = foundry("cache", "clean", "--max-size", "0", "--yes")
    assert "used:1 is loaded" in refused.out and len(store.manifests()) == 1
    foundry.ok("model", "unload", alias)
    assert "freed" in foundry.ok("cache", "clean", "--max-size", "0", "--yes").out
    assert store.manifests() == [] and not any(store.used.iterdir())


def test_the_commands(foundry: Foundry, store: Store, tmp_path: Path) -> None:
    """ollama #14177: partials could not be removed and clean-up deleted needed files."""
    for seed in (1, 2, 3):
        add(store, tmp_path, "m", seed)
    first = store.find("m:1")
    assert first is not None
    refs.pin(store, first)
    assert "m:1 is pinned" in foundry("cache", "remove", "m:1", "--yes").err
    nobody = foundry("cache", "clean", "--keep", "1")
    assert nobody.code == 2 and "--yes" in nobody.err
    plan = foundry.ok("cache", "clean", "--keep", "1", "--dry-run", "--json").json
    assert (plan["models"], plan["spared"], plan["removed"]) == (["m:2"], [{"id": "m:1", "reason": "pinned"}], [])
    assert len(store.manifests()) == 3
    done = foundry.ok("cache", "clean", "--keep", "1", "--yes", "--json").json
    assert done["removed"] == ["m:2"] and done["freedBytes"] >= 4096
    assert [m.id for m in store.manifests()] == ["m:1", "m:3"]
    found = foundry.ok("cache", "du", "--json").json
    assert found["blobBytes"] == 8192 and found["unreferencedBytes"] == 0 < found["totalBytes"]
    foundry.ok("cache", "remove", "m@3", "--yes")
    assert foundry("cache", "clean", "--older-than", "soon").code == 2


async def test_what_is_loaded_after_the_plan_stays(store: Store, tmp_path: Path) -> None:
    manifest = await asyncio.to_thread(add, store, tmp_path, "m", 1)
    plan = plan_removal(space.uses(store, [manifest]), Rules(max_bytes=0), time.time())
    assert ids(plan.doomed) == ["m:1"]
    assert space.execute(store, plan, lambda: ["m:1"]) == ([], 0)
    assert space.execute(store, plan, list)[0] == [manifest]
    assert space.execute(store, plan, list) == ([], 0)


def test_a_version_without_a_recorded_load_counts_from_when_it_was_made(store: Store, tmp_path: Path) -> None:
    manifest = add(store, tmp_path, "m", 1)
    assert space.uses(store, [manifest])[0].last_used == manifest.created_epoch
    space.note_use(store, manifest)
    os.utime(store.used_mark(manifest), (5e9, 5e9))
    assert space.uses(store, [manifest])[0].last_used == 5e9


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * DAY), ("1.5h", 5400), ("2w", 14 * DAY), ("90min", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(f"x{text}")

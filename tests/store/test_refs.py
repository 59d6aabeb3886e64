"""Which version a name means: the rules as a property, and the commands on a real store and a real hub."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Foundry
from hub_server import HubServer, Repo
from localfoundry import config
from localfoundry.errors import UsageError
from localfoundry.instance import ServiceState
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.sources.resolve import resolve
from localfoundry.store import refs
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from localfoundry.store.update import ask, moving_reference
from tiny_gguf import tiny_gguf

DATA = FIRST = tiny_gguf(8192, seed=1)
SECOND = tiny_gguf(12288, seed=2, template="{{ other }}")


def moved_on(hub: HubServer, data: bytes = SECOND, sha: str = "d" * 40, license: str = "mit") -> None:
    hub.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": data}, sha=sha, license=license)


def add(store: Store, tmp_path: Path, name: str, seed: int, alias: str = "alias") -> Manifest:
    path = tmp_path / f"{name}-{seed}.gguf"
    path.write_bytes(tiny_gguf(seed=seed))
    plan = PullPlan(name, None, alias, f"file:{path}", "gguf", (PlannedFile(f"{name}.gguf", local=path),))
    return asyncio.run(pull(store, plan))


def made(version: int, moment: int) -> Manifest:
    return Manifest("m", version, "m", "file:/m", "gguf", (StoredFile("m.gguf", 1, "0" * 64),), f"t{moment}")


@given(
    present=st.sets(st.integers(1, 6), min_size=1),
    version=st.integers(1, 6),
    moment=st.integers(1, 7),
    pinned=st.booleans(),
    seen=st.sets(st.integers(1, 6)),
)
@settings(max_examples=300)
def test_a_ref_means_a_version_that_is_here(
    present: set[int], version: int, moment: int, pinned: bool, seen: set[int]
) -> None:
    """Whatever a ref says, stale or not, a name with versions means one of them, and never other bytes by number."""
    versions = [made(n, n) for n in present]
    ref = refs.Ref(version, f"t{moment}", "now", pinned, tuple(f"t{n}" for n in seen))
    found = refs.current(ref, versions)
    assert found in versions
    same = version == moment and version in present
    if same and (pinned or present <= seen):
        assert found.version == version
    else:
        assert found.version == max(present)
    before = refs.before(ref, versions)
    assert before is None or before.version != found.version


def test_pin_rollback_and_newer_versions(store: Store, tmp_path: Path) -> None:
    first, second = add(store, tmp_path, "m", 1), add(store, tmp_path, "m", 2)
    assert store.find("alias") == second
    assert refs.rollback(store, "m") == (second, first)
    assert store.find("alias") == store.find("M") == first == store.current()[0]
    assert store.find("m:2") == second, "a version that is named is that version"
    with pytest.raises(UsageError, match="no version before"):
        refs.rollback(store, "m")
    third = add(store, tmp_path, "m", 3)
    assert store.find("alias") == third, "what was pulled after the rollback is meant"
    refs.pin(store, first)
    add(store, tmp_path, "m", 4)
    assert store.find("alias") == first
    with pytest.raises(UsageError, match="pinned"):
        refs.rollback(store, "m")
    assert not refs.move(store, third), "an update does not move a pinned name"
    assert refs.unpin(store, "m") == first == store.find("alias")
    assert refs.unpin(store, "m") is None


def test_a_number_that_is_used_again_is_not_pinned(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, "m", 1)
    second = add(store, tmp_path, "m", 2)
    refs.pin(store, second)
    store.remove(second)
    again = add(store, tmp_path, "m", 3)
    assert again.id == second.id
    assert refs.pinned(store.manifests(), refs.read(store.refs)) == set()


def test_the_last_version_takes_its_ref_along_and_a_broken_ref_counts_as_none(store: Store, tmp_path: Path) -> None:
    first = add(store, tmp_path, "m", 1)
    refs.pin(store, first)
    (store.refs / "m.json").write_text("{")
    assert store.find("alias") == first
    store.remove(first)
    assert not any(store.refs.iterdir())


def test_of_two_names_under_one_alias_the_pinned_one_is_meant(store: Store, tmp_path: Path) -> None:
    first = add(store, tmp_path, "m-q4", 1)
    second = add(store, tmp_path, "m-q8", 2)
    assert store.find("alias") == second
    refs.pin(store, first)
    assert store.find("alias") == first and store.find("m-q8") == second


def test_two_processes_decide_one_after_the_other(store: Store, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        add(store, tmp_path, "m", seed)
    code = ("import sys; from pathlib import Path; from localfoundry.store import refs\n"
            "from localfoundry.store.store import Store\nrefs.rollback(Store(Path(sys.argv[1])), 'm')")  # fmt: skip
    children = [subprocess.Popen([sys.executable, "-c", code, str(store.root)]) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    found = store.find("m")
    assert found is not None and found.version == 1, "both rollbacks count"


@pytest.mark.parametrize(
    ("source", "catalog_source", "asked"),
    [
        ("hf:org/m@" + "c" * 40 + ":sub/m-Q4_0.gguf", None, "hf:org/m/sub/m-Q4_0.gguf"),
        ("hf:org/m@" + "c" * 40 + ":genai_config.json", None, "hf:org/m/genai_config.json"),
        ("hf:other/m@" + "c" * 40 + ":m.gguf", "hf-quantized:org/m", "hf-quantized:org/m"),
        ("hf:org/m@" + "c" * 40 + ":m.gguf", "hf:org/m/m.gguf", "hf:org/m/m.gguf"),
        ("pypi:p==1/m.gguf", None, None),
        ("pypi:p==1/m.gguf", "pypi:p==1/m.gguf", None),
        ("pypi:p==1/m.gguf", "pypi:p==2/m.gguf", "pypi:p==2/m.gguf"),
        ("file:/m.gguf", None, "file:/m.gguf"),
        ("adopted from somewhere", None, None),
    ],
)
def test_what_is_asked_for_news(source: str, catalog_source: str | None, asked: str | None) -> None:
    manifest = msgspec.structs.replace(made(1, 1), source=source)
    assert moving_reference(manifest, catalog_source) == asked


# Commands


def test_update_says_what_changed_and_keeps_the_old_version(hub: HubServer, foundry: Foundry, store: Store) -> None:
    """ollama #13409, #5169: a tag moved and nobody knew what changed."""
    foundry.ok("model", "download", "org/tiny-GGUF")
    (same,) = foundry.ok("model", "update", "--check", "--json").json["models"]
    assert (same["state"], same["changes"]) == ("same", [])
    moved_on(hub)
    (found,) = foundry.ok("model", "update", "tiny-gguf", "--check", "--json").json["models"]
    assert len(store.manifests()) == 1 and len(list(store.blobs.glob("?" * 64))) == 1, "a check downloads nothing"
    assert found["state"] == "available"
    assert {(c["what"], c["old"], c["new"]) for c in found["changes"]} >= {
        ("commit", "c" * 40, "d" * 40),
        ("size", str(len(FIRST)), str(len(SECOND))),
        ("license", "apache-2.0", "mit"),
    }
    text = foundry.ok("model", "update").out
    assert "was updated: tiny-gguf means tiny-Q4_0:2 now" in text
    assert "template: " in text and "license: apache-2.0 -> mit" in text
    assert foundry.ok("model", "info", "tiny-gguf", "--json").json["cached"][0]["id"] == "tiny-Q4_0:1"
    rows = foundry.ok("model", "versions", "tiny-gguf", "--json").json["versions"]
    assert [(r["id"], r["current"], r["commit"]) for r in rows] == [
        ("tiny-Q4_0:1", False, "c" * 40),
        ("tiny-Q4_0:2", True, "d" * 40),
    ]
    found = foundry.ok("model", "rollback", "tiny-gguf", "--json").json
    assert (found["id"], found["previous"]) == ("tiny-Q4_0:1", "tiny-Q4_0:2")
    assert store.find("tiny-gguf") == store.find("org/tiny-GGUF") == store.find("tiny-Q4_0:1")
    served = hub.served
    (again,) = foundry.ok("model", "update", "--json").json["models"]
    assert (again["newId"], hub.served) == ("tiny-Q4_0:2", served), "what is here is not fetched again"


def test_a_pinned_name_is_left_and_it_is_said(hub: HubServer, foundry: Foundry, store: Store) -> None:
    foundry.ok("model", "download", "org/tiny-GGUF")
    assert "pinned to tiny-Q4_0:1" in foundry.ok("model", "pin", "tiny-gguf@1").out
    moved_on(hub)
    assert "is pinned and stays" in foundry.ok("model", "update").out
    assert len(store.manifests()) == 1
    assert "pinned" in foundry.ok("model", "versions", "tiny-gguf").out
    refused = foundry("model", "pin", "tiny-gguf@7")
    assert refused.code == 2 and "no version 7" in refused.err
    foundry.ok("model", "unpin", "tiny-gguf")
    assert "means tiny-Q4_0:2 now" in foundry.ok("model", "update", "tiny-gguf").out


def test_one_source_that_fails_does_not_stop_the_others(hub: HubServer, foundry: Foundry) -> None:
    hub.repos["org/gone"] = Repo({"gone.gguf": tiny_gguf(seed=9)})
    foundry.ok("model", "download", "org/gone")
    foundry.ok("model", "download", "org/tiny-GGUF")
    del hub.repos["org/gone"]
    moved_on(hub)
    done = foundry("model", "update", "--json")
    assert done.code == 3 and "no repository org/gone" in done.err
    assert {m["alias"]: m["state"] for m in json.loads(done.out)["models"]} == {
        "gone": "failed",
        "tiny-gguf": "updated",
    }


def test_an_edited_local_file_is_an_update(foundry: Foundry, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_gguf(seed=1))
    foundry.ok("model", "download", str(path))
    assert "is what its source holds" in foundry.ok("model", "update").out
    path.write_bytes(tiny_gguf(seed=2))
    assert "means mine:2 now" in foundry.ok("model", "update").out


async def test_a_template_that_can_be_read_from_afar_is_a_change_before_the_download(
    hub: HubServer, store: Store
) -> None:
    manifest = await pull(store, await resolve("org/tiny-GGUF", settings=config.load()))
    moved_on(hub)

    async def template_of(plan: PullPlan) -> str | None:
        assert plan.files[0].size_bytes == len(SECOND)
        return "e" * 64

    found = await ask(manifest, settings=config.load(), template_of=template_of)
    assert [(c.old, c.new) for c in found.changes if c.what == "template"] == [
        (manifest.chat_template_sha256, "e" * 64)
    ]


def test_what_is_loaded_can_be_unloaded_by_a_name_that_moved(
    foundry: Foundry, service: ServiceState, fake_model: Callable[..., str], store: Store
) -> None:
    alias = fake_model("moving")
    fake_model("moving", delay_s=0)
    foundry.ok("model", "load", alias)
    foundry.ok("model", "rollback", alias)
    foundry.ok("model", "unload", alias)
    assert foundry.ok("service", "ps", "--json").json["models"] == []


async def test_a_moved_commit_with_the_same_bytes_is_no_update(hub: HubServer, store: Store) -> None:
    manifest = await pull(store, await resolve("org/tiny-GGUF", settings=config.load()))
    moved_on(hub, FIRST, license="apache-2.0")
    found = await ask(manifest, settings=config.load())
    assert (found.state, [c.what for c in found.changes]) == ("same", ["commit"])


def test_two_updates_at_once_make_one_version(hub: HubServer, foundry: Foundry, store: Store) -> None:
    foundry.ok("model", "download", "org/tiny-GGUF")
    moved_on(hub)
    program = [sys.executable, "-m", "localfoundry", "model", "update", "--json"]
    children = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], ended
    assert [m.id for m in store.manifests()] == ["tiny-Q4_0:1", "tiny-Q4_0:2"]
    assert hub.served == len(FIRST) + len(SECOND)
    found = store.find("tiny-gguf")
    assert found is not None and found.version == 2

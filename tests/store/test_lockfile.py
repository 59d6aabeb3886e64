"""A lock reproduces exactly these bytes on an empty machine, or says exactly what differs."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Foundry
from hub_server import HubServer, Repo
from localfoundry import config
from localfoundry.config import profiles
from localfoundry.config.profiles import Profile
from localfoundry.errors import InvalidLock, UsageError
from localfoundry.results import place
from localfoundry.store import lockfile
from localfoundry.store.lockfile import Lock, LockedModel
from localfoundry.store.manifest import StoredFile
from localfoundry.store.store import Store
from tiny_gguf import tiny_gguf

DATA = tiny_gguf(8192, seed=1)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MODELS = st.builds(
    LockedModel, alias=TEXT, name=st.from_regex(r"m[a-z0-9]{0,8}", fullmatch=True), version=st.integers(1, 99),
    source=TEXT, format=TEXT, commit=st.none() | TEXT, license=st.none() | TEXT, template_sha256=st.none() | TEXT,
    engine=st.none() | TEXT,
    file=st.lists(st.builds(StoredFile, st.from_regex(r"f[a-z]{0,5}", fullmatch=True), st.integers(0, 2**50),
                            st.from_regex(r"[0-9a-f]{64}", fullmatch=True)), min_size=1, max_size=3).map(tuple),
)  # fmt: skip


@given(models=st.lists(MODELS, max_size=4, unique_by=lambda m: (m.name, m.version)))
@settings(max_examples=80)
def test_what_is_written_is_read_and_the_order_is_stable(
    tmp_path_factory: pytest.TempPathFactory, models: list[LockedModel]
) -> None:
    path = tmp_path_factory.mktemp("lock") / "foundry.lock"
    text = lockfile.text_of(Lock(1, {"b": 2, "a": 1}, tuple(models)))
    path.write_text(text, encoding="utf-8", newline="")
    read = lockfile.read(path)
    assert sorted(read.model, key=lambda m: m.name) == sorted(models, key=lambda m: m.name) or len(models) > 1
    assert set(read.model) == set(models)
    assert lockfile.text_of(read) == text == lockfile.text_of(Lock(1, {"a": 1, "b": 2}, tuple(models[::-1])))


@pytest.mark.parametrize(
    "text",
    ["", "x", "format = 2\n[settings]\n", 'format = 1\nsettings = 3\n', "format = 1\n[settings]\n[[model]]\n",
     'format=1\n[settings]\n[[model]]\nalias="a"\nname="../x"\nversion=1\nsource="s"\nformat="gguf"\n',
     'format=1\n[settings]\n[[model]]\nalias="a"\nname="x"\nversion=1\nsource="s"\nformat="gguf"\n'],
)  # fmt: skip
def test_what_is_no_lock_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "foundry.lock"
    path.write_text(text)
    with pytest.raises(UsageError):
        lockfile.read(path)
    with pytest.raises(InvalidLock, match="cannot read"):
        lockfile.read(tmp_path / "none")


def test_an_empty_machine_gets_exactly_these_bytes(hub: HubServer, foundry: Foundry, tmp_path: Path) -> None:
    file = str(tmp_path / "foundry.lock")
    foundry.ok("model", "download", "org/tiny-GGUF")
    foundry.ok("lock", "--file", file)
    text = Path(file).read_text()
    for part in ("c" * 40, "template_sha256", "xllamacpp", "parallelRequests = 8", f"size_bytes = {len(DATA)}"):
        assert part in text
    foundry.ok("lock", "--file", file)
    assert Path(file).read_text() == text
    assert "exactly as" in foundry.ok("sync", "--check", "--file", file).out
    other = {"FOUNDRY_HOME": str(tmp_path / "other")}
    missing = foundry("sync", "--locked", "--check", "--file", file, env=other)
    assert missing.code == 1 and "model: locked tiny-Q4_0 from hf:org/tiny-GGUF@" in missing.out
    served = hub.served
    assert foundry.ok("sync", "--locked", "--file", file, "--json", env=other).json["pulled"] == ["tiny-Q4_0:1"]
    assert hub.served - served == len(DATA)
    found = Store(tmp_path / "other" / "models").find("tiny-gguf")
    assert found is not None and Store(tmp_path / "other" / "models").main_file(found).read_bytes() == DATA
    assert foundry.ok("lock", "--file", str(tmp_path / "again.lock"), env=other)
    assert (tmp_path / "again.lock").read_text() == text, "the copy locks to the same text"


def test_what_differs_is_said_exactly(hub: HubServer, foundry: Foundry, tmp_path: Path) -> None:
    file = tmp_path / "foundry.lock"
    foundry.ok("model", "download", "org/tiny-GGUF")
    foundry.ok("lock", "tiny-gguf", "--file", str(file))
    hub.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": tiny_gguf(8192, seed=2)}, sha="d" * 40)
    foundry.ok("model", "update")
    moved = foundry("sync", "--check", "--file", str(file), "--json")
    assert moved.code == 1
    assert [(d["what"], d["locked"], d["here"]) for d in json.loads(moved.out)["differences"]] == [
        ("ref", "tiny-Q4_0:1", "tiny-Q4_0:2")
    ]
    foundry.ok("sync", "--locked", "--file", str(file))
    found = Store(config.load().models_dir).find("tiny-gguf")
    assert found is not None and found.version == 1, "the locked version is meant again, without a download"
    file.write_text(file.read_text().replace("parallelRequests = 8", "parallelRequests = 3"))
    setting = foundry("sync", "--locked", "--file", str(file))
    assert setting.code == 1 and "setting parallelRequests: locked 3, here 8" in setting.out
    assert "foundry service set --parallel 3" in setting.err


def test_a_source_with_other_bytes_is_refused(hub: HubServer, foundry: Foundry, tmp_path: Path) -> None:
    file = tmp_path / "foundry.lock"
    foundry.ok("model", "download", "org/tiny-GGUF")
    foundry.ok("lock", "--file", str(file))
    hub.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": tiny_gguf(8192, seed=2)})  # the commit's name is the same
    done = foundry("sync", "--locked", "--file", str(file), env={"FOUNDRY_HOME": str(tmp_path / "other")})
    assert done.code == 3 and "is locked" in done.err
    assert Store(tmp_path / "other" / "models").manifests() == []


def test_a_profile_travels_to_machines_of_its_kind_only(hub: HubServer, foundry: Foundry, tmp_path: Path) -> None:
    lock_file = tmp_path / "foundry.lock"
    foundry.ok("model", "download", "org/tiny-GGUF")
    manifest = Store(config.load().models_dir).current()[0]
    here = Profile(
        machine=place.machine_id(), sha256=manifest.files[0].sha256, purpose="chat", model=manifest.id,
        tuned_at="2026-11-23T10:00:00+00:00", engine="llama.cpp", engine_version="1", ratio=1.5, low=1.4, high=1.6,
        arguments=("--threads", "1"), parallel=2, evidence={"private": "to this machine"},
    )  # fmt: skip
    home = config.load().home
    for one in (here, msgspec.structs.replace(here, machine="another"), msgspec.structs.replace(here, sha256="1" * 64)):
        profiles.save(home, one)
    foundry.ok("lock", "--file", str(lock_file))
    assert "private" not in lock_file.read_text()
    assert [p.machine for p in lockfile.read(lock_file).profile] == sorted([place.machine_id(), "another"])
    (home / profiles.FILE_NAME).unlink()
    done = foundry("sync", "--check", "--file", str(lock_file))
    assert done.code == 1 and "profile chat: locked llama.cpp --threads 1 parallel 2, here nothing" in done.out
    foundry.ok("sync", "--locked", "--file", str(lock_file))
    assert profiles.read(home) == [msgspec.structs.replace(here, evidence={})]

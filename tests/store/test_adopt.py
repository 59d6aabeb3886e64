"""Models of other tools: found, linked, verified, never touched, and noticed when their owner touches them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.errors import (
    ChecksumMismatch,
    DiskError,
    FoundryError,
    ModelChanged,
    ModelGone,
    NotAModel,
    UsageError,
)
from localfoundry.sources import hfcache, lmstudio, ollama
from localfoundry.sources.owners import scan_owner, scan_path
from localfoundry.store import adopt as adopting
from localfoundry.store import adopted, space
from localfoundry.store.adopt import adopt, plan_adoption
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.repair import repair
from localfoundry.store.store import Store
from localfoundry.store.verify import verify
from owner_stores import COMMIT, hf_repository, ollama_model, safetensors, sha256
from tiny_gguf import tiny_gguf

DATA = tiny_gguf()


@pytest.fixture
def hub_cache(isolated: Path) -> Path:
    root = isolated / "hf" / "hub"
    hf_repository(root, "org/tiny-GGUF", {"tiny-Q4_0.gguf": DATA, "README.md": b"---\nlicense: apache-2.0\n---\n"})
    return root


def adopt_one(store: Store, root: Path) -> Manifest:
    (model,) = ollama.scan(root).models
    return adopt(store, model)


def test_a_model_of_the_hub_cache_is_adopted_under_the_name_a_download_would_have(
    store: Store, hub_cache: Path
) -> None:
    """ollama #8506: the same 40 GB three times on one disk."""
    (model,) = scan_owner("hf", Path.home(), os.environ).models
    manifest = adopt(store, model)
    blob = hub_cache / "models--org--tiny-GGUF" / "blobs" / sha256(DATA)
    assert store.main_file(manifest).samefile(blob) and blob.stat().st_nlink == 2
    assert (manifest.id, manifest.alias, manifest.license) == ("tiny-Q4_0:1", "tiny-gguf", "apache-2.0")
    assert (manifest.commit, manifest.context_length, manifest.quantization) == (COMMIT, 2048, "Q4_0")
    for name in ("org/tiny-GGUF", "hf:org/tiny-GGUF:Q4_0", "tiny-gguf"):
        assert store.find(name) == manifest
    state = adopted.state_of(store, manifest)
    assert state is not None and (state.state, state.shared_bytes) == ("shared", len(DATA))
    assert not any(store.blobs.iterdir()) and not any(store.tmp.iterdir())
    assert adopt(store, model) == manifest
    assert plan_adoption(store, [model])[0].present == manifest


def test_ollama_texts_are_kept_and_translated(store: Store, tmp_path: Path) -> None:
    ollama_model(
        tmp_path, "llama", "1b", license=b"Apache License\nVersion 2.0", system=b"Be kind.",
        params=b'{"stop": ["<|end|>"], "temperature": 0.5, "num_ctx": 4096, "mirostat": 2}',
        template=b"{{ if .System }}<s>{{ .System }}</s>\n{{ end }}<u>{{ .Prompt }}</u>\n<a>{{ .Response }}</a>",
    )  # fmt: skip
    manifest = adopt_one(store, tmp_path)
    assert (manifest.alias, manifest.source, manifest.license) == ("llama-1b", "ollama:llama:1b", "apache-2.0")
    assert manifest.adopted is not None
    assert manifest.adopted.parameters == {"stop": ["<|end|>"], "temperature": 0.5, "context_length": 4096}
    assert manifest.adopted.untranslated == ("parameter 'mirostat'", "system (kept as a file)")
    assert (store.folder(manifest) / "LICENSE").read_bytes().startswith(b"Apache License")
    assert (store.folder(manifest) / "ollama-template.txt").exists()
    assert store.find("ollama:llama:1b") == manifest
    assert msgspec.json.decode((store.folder(manifest) / "manifest.json").read_bytes(), type=Manifest) == manifest


def test_lm_studio_folder(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "studio" / "models"
    (root / "pub" / "repo-GGUF").mkdir(parents=True)
    (root / "pub" / "repo-GGUF" / "m-Q8_0.gguf").write_bytes(DATA)
    (tmp_path / ".lmstudio-home-pointer").write_text(str(tmp_path / "studio"))
    (model,) = scan_owner("lmstudio", tmp_path, {}).models
    manifest = adopt(store, model)
    assert (manifest.source, manifest.quantization) == ("lmstudio:pub/repo-GGUF/m-Q8_0.gguf", "Q8_0")
    assert lmstudio.scan(tmp_path / "nowhere").models == ()


def test_folders_that_a_person_names(store: Store, tmp_path: Path) -> None:
    onnx = tmp_path / "phi-onnx"
    onnx.mkdir()
    (onnx / "genai_config.json").write_text('{"model": {"type": "llama", "decoder": {"filename": "model.onnx"}}}')
    (onnx / "model.onnx").write_bytes(b"onnx")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "model.safetensors").write_bytes(safetensors())
    (raw / "config.json").write_text("{}")
    (tmp_path / "one.gguf").write_bytes(DATA)
    made = {adopt(store, scan_path(p).models[0]).format for p in (onnx, raw, tmp_path / "one.gguf")}
    assert made == {"onnx", "safetensors", "gguf"}
    for manifest in store.manifests():
        assert adopted.state_of(store, manifest).state == "shared"  # type: ignore[union-attr]


def test_removing_a_version_leaves_the_owner_alone(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path)
    before = {p: (p.stat().st_mode, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    manifest = adopt_one(store, tmp_path)
    assert store.plan_clean().is_empty
    assert store.remove(manifest) < 2500  # our manifest
    assert store.plan_clean().is_empty
    now = {p: (p.stat().st_mode, p.stat().st_mtime_ns) for p in before}
    assert now == before


def test_the_owner_removes_a_linked_file_and_the_bytes_stay(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path)
    manifest = adopt_one(store, tmp_path)
    (tmp_path / "blobs" / f"sha256-{sha256(DATA)}").unlink()
    state = adopted.state_of(store, manifest)
    assert state is not None and (state.state, state.shared_bytes) == ("kept", 0)
    adopted.check(store, manifest)
    assert store.remove(manifest) >= len(DATA)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(adopting.os, "link", refuse)


@pytest.mark.usefixtures("no_links")
def test_across_disks_it_is_a_reference_and_gone_is_noticed(store: Store, tmp_path: Path, foundry: Foundry) -> None:
    ollama_model(tmp_path)
    manifest = adopt_one(store, tmp_path)
    blob = tmp_path / "blobs" / f"sha256-{sha256(DATA)}"
    assert store.main_file(manifest).is_symlink() and store.main_file(manifest).read_bytes() == DATA
    blob.unlink()
    with pytest.raises(ModelGone, match="owned by ollama") as caught:
        adopted.check(store, manifest)
    assert caught.value.hint == "foundry model download tiny-1b"
    assert "gone: was owned by ollama" in foundry.ok("cache", "list").out
    assert "gone: was owned by ollama" in foundry.ok("model", "info", "tiny-1b").out
    assert foundry.ok("cache", "list", "--json").json["models"][0]["adoption"]["state"] == "gone"
    failed = foundry("model", "load", "tiny-1b")
    assert failed.code != 0 and "owned by ollama" in failed.err and "foundry model download" in failed.err
    ollama_model(tmp_path)
    assert adopt_one(store, tmp_path).id == "tiny-1b:1"  # the entry that led nowhere made way


def test_an_edit_by_the_owner_is_refused_and_a_touch_is_read_again(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path)
    manifest = adopt_one(store, tmp_path)
    blob = tmp_path / "blobs" / f"sha256-{sha256(DATA)}"
    os.utime(blob, ns=(1, 1))
    assert adopted.state_of(store, manifest).state == "changed"  # type: ignore[union-attr]
    adopted.check(store, manifest)
    assert adopted.state_of(store, manifest).state == "shared"  # type: ignore[union-attr]
    blob.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(ModelChanged, match="changed by ollama") as caught:
        adopted.check(store, manifest)
    assert caught.value.hint == "foundry cache remove tiny-1b:1"


def test_bytes_that_are_not_what_their_name_says_are_refused(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path)
    blob = tmp_path / "blobs" / f"sha256-{sha256(DATA)}"
    blob.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch, match="promises"):
        adopt_one(store, tmp_path)
    assert store.manifests() == [] and not any(store.tmp.iterdir())


def test_a_file_that_is_no_model_leaves_nothing(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path, weights=b"GGUF" + b"\xff" * 100)
    with pytest.raises(NotAModel):
        adopt_one(store, tmp_path)
    assert store.manifests() == [] and not any(store.tmp.iterdir())


def test_a_file_that_goes_away_meanwhile(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path)
    (model,) = ollama.scan(tmp_path).models
    (tmp_path / "blobs" / f"sha256-{sha256(DATA)}").unlink()
    with pytest.raises(DiskError, match="no longer there"):
        adopt(store, model)


def test_links_out_of_the_owners_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(DATA)
    folder = hf_repository(tmp_path / "hub", "org/evil", {"good-Q4_0.gguf": DATA})
    (folder / "snapshots" / COMMIT / "evil-Q8_0.gguf").symlink_to(secret)
    found = hfcache.scan(tmp_path / "hub")
    assert found.models == () and "leads out of" in found.refused[0].reason
    ollama_model(tmp_path / "o")
    blob = tmp_path / "o" / "blobs" / f"sha256-{sha256(DATA)}"
    blob.unlink()
    blob.symlink_to(secret)
    found = ollama.scan(tmp_path / "o")
    assert found.models == () and "leads out of" in found.refused[0].reason


def test_an_incomplete_snapshot_is_left_alone_and_the_others_are_found(hub_cache: Path) -> None:
    broken = hf_repository(hub_cache, "org/broken", {"b-Q4_0.gguf": tiny_gguf(seed=1)})
    (broken / "blobs" / sha256(tiny_gguf(seed=1))).unlink()
    found = hfcache.scan(hub_cache)
    assert [m.plan.alias for m in found.models] == ["tiny-gguf"]
    assert [Path(r.path).name for r in found.refused] == ["models--org--broken"]


def test_manifests_of_before_are_read_as_before() -> None:
    """New fields are optional, and a version of our own is written without them."""
    old = b'{"name":"m","version":1,"alias":"m","source":"s","format":"gguf","files":[{"name":"f","size_bytes":1,"sha256":"a"}],"created_at":"2026-01-01"}'  # noqa: E501
    manifest = msgspec.json.decode(old, type=Manifest)
    assert manifest.files == (StoredFile("f", 1, "a"),)
    assert msgspec.json.encode(manifest) == old


def test_the_command(foundry: Foundry, isolated: Path, hub_cache: Path, tmp_path: Path) -> None:
    ollama_model(isolated / ".ollama" / "models", "mistral", "7b", weights=tiny_gguf(seed=5))
    listed = foundry.ok("import", "--list", "--json").json
    assert [(m["owner"], m["alias"], m["present"]) for m in listed["models"]] == [
        ("huggingface", "tiny-gguf", None), ("ollama", "mistral-7b", None)]  # fmt: skip
    assert "would be linked" in foundry.ok("import", "--dry-run").out
    assert foundry("import").code == 2  # nobody to ask
    assert "mistral-7b:1" in foundry.ok("import", "mistral:7b").out
    assert "tiny-Q4_0:1" in foundry.ok("import", "--from", "hf", "--yes").out
    assert "shared with ollama" in foundry.ok("cache", "list").out
    assert {m["present"] for m in foundry.ok("import", "--json").json["models"]} == {"tiny-Q4_0:1", "mistral-7b:1"}
    missing = foundry("import", "nothing-like-it")
    assert missing.code == 2 and "foundry import --list" in missing.err
    (tmp_path / "x.gguf").write_bytes(b"junk")
    assert "is not a model" in foundry("import", str(tmp_path / "x.gguf")).err
    assert foundry("import", "--from", str(tmp_path / "none")).code == 2


def test_a_safetensors_folder_is_registered_and_said_not_to_run(foundry: Foundry, tmp_path: Path) -> None:
    folder = tmp_path / "raw-model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors())
    (folder / "config.json").write_text("{}")
    result = foundry.ok("import", str(folder))
    assert "no engine here runs yet" in result.err
    assert "no engine here runs" in foundry("model", "load", "raw-model").err


def test_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(FoundryError):
        scan_path(tmp_path / "nothing")


def test_adopted_bytes_are_the_owners_in_every_account(store: Store, tmp_path: Path) -> None:
    """They counted as shared with a version of our own that has the same sum, and as a copy of ours in `cache du`."""
    source = tmp_path / "own.gguf"
    source.write_bytes(DATA)
    manifest = adopt(store, scan_path(source).models[0])
    (account,) = space.measure(store).accounts
    assert (account.shared_bytes, account.missing_bytes) == (len(DATA), 0)
    assert account.exclusive_bytes < len(DATA)
    assert space.shared_bytes([manifest, msgspec.structs.replace(manifest, version=2)])[manifest.id] == 0
    (checked,) = verify(store, [manifest])
    assert checked.is_healthy


async def test_adopted_bytes_are_not_ours_to_repair(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "own.gguf"
    source.write_bytes(DATA)
    manifest = adopt(store, scan_path(source).models[0])
    source.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    (checked,) = verify(store, [manifest])
    assert not checked.is_healthy
    with pytest.raises(UsageError, match="belongs to file"):
        await repair(store, checked, settings=config.load())
    assert source.read_bytes() != DATA

"""Stores of other tools hold what strangers put there: nothing outside them is read, and nothing is believed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfoundry.errors import FoundryError
from localfoundry.sources import hfcache, ollama
from localfoundry.store.adopt import adopt
from localfoundry.store.store import Store
from owner_stores import layer, ollama_manifest, ollama_model, sha256
from tiny_gguf import tiny_gguf

DATA = tiny_gguf()
GOOD = f"sha256:{sha256(DATA)}"


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../etc/passwd", "sha256-" + "0" * 64, "/etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 63,
     "", "sha256:" + "0" * 64 + "/../x", "sha512:" + "0" * 64, "sha256:" + "0" * 64 + "\n"],
)  # fmt: skip
def test_digests_are_parsed_not_joined(tmp_path: Path, digest: str) -> None:
    """ollama CVE-2024-37032, CVE-2026-7020: a digest with `../` in a manifest wrote anywhere."""
    ollama_manifest(tmp_path, json.dumps({"layers": [layer("model", digest, 1)]}).encode())
    found = ollama.scan(tmp_path)
    assert found.models == () and len(found.refused) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"[" * 200_000, b'{"layers":' + b"[" * 100_000, b'{"x":' * 50_000, b"\xff\xfe", b"0" * 300_000,
     b'{"layers": [' + b",".join([b'{"mediaType":"a","digest":"' + GOOD.encode() + b'","size":1}'] * 2000) + b"]}",
     b'{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"' + GOOD.encode() + b'","size":-1}]}'],
    ids=range(10),
)  # fmt: skip
def test_manifests_that_are_huge_nested_or_nonsense(tmp_path: Path, body: bytes) -> None:
    ollama_model(tmp_path, "good", "1b")
    ollama_manifest(tmp_path, body, "evil", "1b")
    found = ollama.scan(tmp_path)
    assert [m.plan.alias for m in found.models] == ["good-1b"]
    assert len(found.refused) == 1


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    ollama_model(tmp_path)
    ollama_manifest(tmp_path, json.dumps({"layers": [layer("model", GOOD, 7)]}).encode())
    assert "its manifest says 7" in ollama.scan(tmp_path).refused[0].reason


def test_a_model_with_an_adapter_is_another_model(tmp_path: Path) -> None:
    ollama_model(tmp_path, adapter=tiny_gguf(seed=3))
    assert "adapter" in ollama.scan(tmp_path).refused[0].reason


def test_a_folder_that_is_a_link_is_not_entered(tmp_path: Path) -> None:
    ollama_model(tmp_path / "real")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "manifests").symlink_to(tmp_path / "real" / "manifests")
    (tmp_path / "fake" / "blobs").symlink_to(tmp_path / "real" / "blobs")
    assert ollama.scan(tmp_path / "fake").models == ()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
    | st.sampled_from([GOOD, "sha256:../x", "application/vnd.ollama.image.model", "../../x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["layers", "mediaType", "digest", "size", "config", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
LAYERS = st.lists(
    st.fixed_dictionaries({
        "mediaType": st.sampled_from([f"application/vnd.ollama.image.{k}" for k in (
            "model", "template", "params", "license", "adapter", "projector", "../x", "")]),
        "digest": st.sampled_from([GOOD, "sha256:..", "sha256:" + "0" * 64]) | st.text(max_size=80),
        "size": st.sampled_from([len(DATA), 0, 10**30]) | st.integers(),
    }), max_size=4,
)  # fmt: skip


@given(document=st.fixed_dictionaries({"layers": LAYERS}) | VALUES, name=st.text(min_size=1, max_size=20))
@settings(max_examples=80)
def test_any_manifest_is_adopted_or_refused(document: object, name: str) -> None:
    """Whatever a manifest says, files are read below the store alone and written below ours alone."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        ollama_model(root / "ollama", "base", "x")
        try:
            ollama_manifest(root / "ollama", json.dumps(document).encode(), name, "t")
        except (OSError, ValueError):
            return  # no file system takes that name
        before = {p for p in root.rglob("*") if p.is_file()}
        store = Store(root / "store")
        for model in ollama.scan(root / "ollama").models:
            assert all(f.local is not None and f.local.is_relative_to(root / "ollama") for f in model.plan.files)
            try:
                adopt(store, model)
            except FoundryError:
                continue
        assert {p for p in root.rglob("*") if p.is_file() and store.root not in p.parents} == before


@given(st.lists(st.sampled_from(["..", "models--a--b", "snapshots", "c" * 40, "refs", "x.gguf", "blobs", "", "~"]),
                min_size=1, max_size=6))  # fmt: skip
@settings(max_examples=60)
def test_any_shape_of_hub_cache(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "hub"
        path = root.joinpath(*[p for p in parts if p not in ("..", "")] or ["x"])
        path.parent.mkdir(parents=True)
        path.write_bytes(DATA)
        found = hfcache.scan(root)
        assert all(f.local and f.local.is_relative_to(root) for m in found.models for f in m.plan.files)

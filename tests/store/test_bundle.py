"""Bundles: out on one machine, in on another, verified; resumed; signed; and every wrong one refused unwritten."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import document, manifest_of, one_member, packed, write_bundle
from harness import Foundry
from localfoundry import config
from localfoundry.errors import BadBundle, ChecksumMismatch, DiskFull, FoundryError, UsageError
from localfoundry.sources import ollama
from localfoundry.store import bundle as form
from localfoundry.store import disk
from localfoundry.store.adopt import adopt
from localfoundry.store.bundle import header, opened
from localfoundry.store.bundle_export import export, plan_export
from localfoundry.store.bundle_import import import_bundle, plan_import
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from owner_stores import ollama_model
from tiny_gguf import tiny_gguf

ONE, TWO = tiny_gguf(), tiny_gguf(8192, seed=2)
VERSIONS = {"one": {"one.gguf": ONE, "LICENSE": b"MIT License"}, "two": {"two.gguf": TWO}}
DATA = {hashlib.sha256(d).hexdigest(): d for files in VERSIONS.values() for d in files.values()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def right(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "right.bundle", VERSIONS)
    return tmp_path / "right.bundle"


def bring(store: Store, path: Path) -> list[Manifest]:
    with opened(path) as bundle:
        return import_bundle(store, bundle, plan_import(store, bundle))


def test_there_and_back(store: Store, right: Path, tmp_path: Path) -> None:
    """ollama #335: no export or import for machines without a network."""
    first = bring(store, right)
    assert [m.id for m in first] == ["one:1", "two:1"]
    assert first[0].context_length == 2048  # from the header of the file
    plan = plan_export(store, store.manifests(), [], None)
    export(plan, tmp_path / "again.bundle")
    assert (tmp_path / "again.bundle").stat().st_size == plan.size_bytes
    other = Store(tmp_path / "other")
    second = bring(other, tmp_path / "again.bundle")
    assert [m.files for m in second] == [m.files for m in first]
    assert other.main_file(second[1]).read_bytes() == TWO
    assert bring(other, tmp_path / "again.bundle") == []
    assert not any(other.tmp.iterdir()) and other.plan_clean().is_empty


def test_every_tar_can_take_it_apart(right: Path) -> None:
    with tarfile.open(right) as tar:
        names = tar.getnames()
        assert names == ["localfoundry-bundle.json", *(f"blobs/sha256/{s}" for s in DATA)]
        assert all(m.isreg() for m in tar.getmembers())
        assert tar.extractfile(names[1]).read() == next(iter(DATA.values()))  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8 * 2**30 - 1, 8 * 2**30, 3 * 2**40])
def test_headers_of_any_size_are_what_tar_reads(size: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(header("blobs/x", size) + bytes(1024))) as tar:
        member = tar.next()
        assert member is not None and (member.name, member.size, member.isreg()) == ("blobs/x", size, True)


def test_an_adopted_model_becomes_an_ordinary_one(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path / "ollama", template=b"{{ .Prompt }}")
    adopt(store, ollama.scan(tmp_path / "ollama").models[0])
    export(plan_export(store, store.manifests(), [], None), tmp_path / "b")
    (manifest,) = bring(Store(tmp_path / "other"), tmp_path / "b")
    assert all(f.external is None for f in manifest.files)
    assert manifest.adopted is not None and manifest.adopted.chat_template


def test_a_version_number_that_is_taken_becomes_the_next(store: Store, right: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"one": {"one.gguf": tiny_gguf(seed=9)}})
    bring(store, tmp_path / "b")
    with opened(right) as bundle:
        assert [m.id for m in plan_import(store, bundle).number_taken] == ["one:1"]
    assert [m.id for m in bring(store, right)] == ["one:2", "two:1"]


@pytest.mark.parametrize("left", [ONE[:2000], b"\0" * 2000, ONE, ONE + b"more", b""])
def test_what_a_killed_import_left_is_checked_and_gone_on_from(store: Store, right: Path, left: bytes) -> None:
    with opened(right) as bundle:
        work = store.tmp / f"bundle-{bundle.index_sha256[:32]}"
    work.mkdir(parents=True)
    (work / f"{hashlib.sha256(ONE).hexdigest()}.part").write_bytes(left)
    first, _ = bring(store, right)
    assert store.main_file(first).read_bytes() == ONE


def test_a_full_disk_is_said_before_anything_is_written(
    store: Store, right: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 1000)
    with pytest.raises(DiskFull, match="more"):
        bring(store, right)
    assert not store.root.exists()


def test_a_blob_with_wrong_bytes_is_refused(store: Store, right: Path) -> None:
    body = bytearray(right.read_bytes())
    body[body.index(TWO) + 5000] ^= 1
    right.write_bytes(body)
    with pytest.raises(BadBundle, match="other bytes"):
        bring(store, right)
    assert [m.id for m in store.manifests()] == ["one:1"]  # whole, verified, filed before
    assert not any(store.tmp.iterdir()) and store.plan_clean().is_empty


def test_a_file_that_is_no_model_is_refused_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"bad": {"bad.gguf": b"GGUF" + b"\xff" * 5000}})
    with pytest.raises(BadBundle, match="refused"):
        bring(store, tmp_path / "b")
    assert store.manifests() == [] and store.plan_clean().is_empty


def change(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(index: dict[str, Any]) -> None:
        *way, last = [int(p) if p.isdecimal() else p for p in path.split(".")]
        here: Any = index
        for step in way:
            here = here[step]
        here[last] = value

    return apply


OUTSIDE = {"owner": "x", "path": "/etc/passwd", "linked": False, "mtime_ns": 1, "inode": 1}
WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "path traversal": change("manifests.0.files.0.name", "../../x.gguf"),
    "absolute": change("manifests.0.files.0.name", "/etc/x.gguf"),
    "drive": change("manifests.0.files.0.name", "C:\\x.gguf"),
    "our manifest": change("manifests.0.files.0.name", "manifest.json"),
    "hidden": change("manifests.0.files.0.name", ".verified.json"),
    "name of a version": change("manifests.0.name", "../x"),
    "alias with escapes": change("manifests.0.alias", "\x1b[2Jx"),
    "source with escapes": change("manifests.0.source", "\x1b]0;x\x07"),
    "version number": change("manifests.0.version", -1),
    "a file outside": change("manifests.0.files.0.external", OUTSIDE),
    "sum with a path": change("manifests.0.files.0.sha256", "../" + "0" * 61),
    "sum in upper case": change("blobs.0.sha256", "A" * 64),
    "size that lies": change("manifests.0.files.0.size_bytes", 1),
    "negative size": change("blobs.0.size_bytes", -5),
    "huge size": change("blobs.0.size_bytes", 2**60),
    "blob twice": lambda index: index["blobs"].append(index["blobs"][0]),
    "version twice": lambda index: index["manifests"].append(index["manifests"][0]),
    "file twice": lambda index: index["manifests"][0]["files"].append(index["manifests"][0]["files"][0]),
    "blob that nobody has": lambda index: index["blobs"].append({"sha256": "0" * 64, "size_bytes": 0}),
    "no versions": change("manifests", []),
    "result with a path": change("results", [{"name": "../x.json", "sha256": "0" * 64, "size_bytes": 0}]),
    "result too large": change("results", [{"name": "x.json", "sha256": "0" * 64, "size_bytes": 2**30}]),
    "signer": change("signed_by", "zz"),
    "another form": change("version", 2),
    "thousands": lambda index: index["blobs"].extend([index["blobs"][0]] * 100_001),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_index_that_lies_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    """CVE-2024-45436: zip slip in an archive."""
    index = document(VERSIONS)
    WRONG[name](index)
    body = json.dumps(index).encode()
    path = tmp_path / "b"
    path.write_bytes(one_member(form.INDEX_NAME, body) + b"".join(
        one_member(f"blobs/sha256/{s}", d) for s, d in DATA.items()) + bytes(1024))  # fmt: skip
    with pytest.raises(BadBundle):
        bring(store, path)
    assert not store.root.exists()


def rebuilt(change_member: Callable[[tarfile.TarInfo], None]) -> bytes:
    """The right bundle, with one member made by the tar library after a change."""
    out = io.BytesIO(packed(document(VERSIONS), DATA))
    with tarfile.open(fileobj=out) as tar:
        member = tar.getmembers()[1]
    change_member(member)
    body = bytearray(out.getvalue())
    body[member.offset : member.offset + 512] = member.tobuf(tarfile.USTAR_FORMAT)[:512]
    return bytes(body)


def attribute(name: str, value: object) -> Callable[[tarfile.TarInfo], None]:
    return lambda member: setattr(member, name, value)


FILES: dict[str, Callable[[], bytes]] = {
    "link": lambda: rebuilt(attribute("type", tarfile.SYMTYPE)),
    "hard link": lambda: rebuilt(attribute("type", tarfile.LNKTYPE)),
    "device": lambda: rebuilt(attribute("type", tarfile.CHRTYPE)),
    "folder": lambda: rebuilt(attribute("type", tarfile.DIRTYPE)),
    "sparse": lambda: rebuilt(attribute("type", tarfile.GNUTYPE_SPARSE)),
    "traversal": lambda: rebuilt(attribute("name", "../../evil")),
    "absolute": lambda: rebuilt(attribute("name", "/etc/evil")),
    "size": lambda: rebuilt(attribute("size", 1)),
    "set-uid": lambda: rebuilt(attribute("mode", 0o4755)),
    "wrong order": lambda: packed(document({k: VERSIONS[k] for k in ("two", "one")}), DATA)[:-8192] + ONE + ONE,
    "appended": lambda: packed(document(VERSIONS), DATA) + one_member("../evil", b"x"),
    "appended zeros": lambda: packed(document(VERSIONS), DATA) + bytes(512),
    "not a bundle": lambda: ONE,
    "zip": lambda: b"PK\x03\x04" + bytes(1000),
    "empty": lambda: b"",
    "index of 8 GB": lambda: header(form.INDEX_NAME, 8**11 - 1),
    "index not JSON": lambda: one_member(form.INDEX_NAME, b"[" * 500_000),
}


@pytest.mark.parametrize("name", FILES)
def test_an_archive_that_lies_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "b").write_bytes(FILES[name]())
    with pytest.raises(BadBundle):
        bring(store, tmp_path / "b")
    assert not store.root.exists()


@given(st.data())
@settings(max_examples=120)
def test_no_change_of_a_bundle_is_accepted(data: st.DataObject) -> None:
    """Whatever bytes are cut, added or flipped: nothing wrong is ever filed, and form errors write nothing."""
    right = packed(document(VERSIONS), DATA)
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "zero"]))
    # Headers are small beside the data; most changes should meet them.
    at = data.draw(st.one_of(st.integers(0, 4000), st.integers(0, len(right) - 1)))
    if kind == "cut":
        wrong = right[:at]
    elif kind == "flip":
        wrong = right[:at] + bytes([right[at] ^ data.draw(st.integers(1, 255))]) + right[at + 1 :]
    elif kind == "insert":
        wrong = right[:at] + data.draw(st.binary(min_size=1, max_size=600)) + right[at:]
    else:
        wrong = right[:at] + bytes(len(right[at : at + 512])) + right[at + 512 :]
    with tempfile.TemporaryDirectory() as made:
        store, path = Store(Path(made) / "store"), Path(made) / "b"
        path.write_bytes(wrong)
        with contextlib.suppress(BadBundle):
            bring(store, path)
        for manifest in store.manifests():
            for file in manifest.files:
                assert hashlib.sha256((store.folder(manifest) / file.name).read_bytes()).hexdigest() == file.sha256
        assert store.damaged() == []
        assert {p.name for p in Path(made).iterdir()} <= {"b", "store"}


KEYS = st.sampled_from(["format", "version", "manifests", "blobs", "files", "name"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)


@given(st.recursive(LEAVES, lambda s: st.lists(s, max_size=3) | st.dictionaries(KEYS, s, max_size=5)))
@settings(max_examples=150)
def test_any_index_is_read_or_refused(value: object) -> None:
    with pytest.raises(BadBundle):
        form.parse_index(json.dumps(value).encode())


def test_export_refuses_what_was_damaged_and_leaves_no_file(store: Store, right: Path, tmp_path: Path) -> None:
    first, _ = bring(store, right)
    plan = plan_export(store, [first], [], None)
    with pytest.raises(UsageError, match="is there already"):
        export(plan, right)
    blob = store.main_file(first)
    blob.chmod(0o600)
    blob.write_bytes(ONE[:-1] + bytes([ONE[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch):
        export(plan, tmp_path / "new" if (tmp_path / "new").mkdir() else tmp_path / "new" / "b")
    assert not any((tmp_path / "new").iterdir())


def test_manifests_in_a_bundle_say_nothing_of_this_machine(store: Store, tmp_path: Path) -> None:
    ollama_model(tmp_path / "ollama")
    adopt(store, ollama.scan(tmp_path / "ollama").models[0])
    plan = plan_export(store, store.manifests(), [], None)
    assert str(tmp_path).encode() not in plan.body


def keys(folder: Path) -> tuple[Path, Path]:
    """A new pair as files, as openssl writes them."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder.mkdir(exist_ok=True)
    key = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_the_commands(foundry: Foundry, isolated: Path, tmp_path: Path, right: Path) -> None:
    shown = foundry.ok("bundle", "show", str(right), "--json").json
    assert [m["id"] for m in shown["models"]] == ["one:1", "two:1"]
    assert shown["models"][0]["licenseFiles"] == ["LICENSE"]
    assert "nothing was imported" in foundry.ok("bundle", "import", str(right), "--dry-run").err
    assert not Store(config.load().models_dir).root.exists()
    assert foundry.ok("bundle", "import", str(right), "--yes", "--json").json["imported"] == ["one:1", "two:1"]
    assert "already here: one:1" in foundry.ok("bundle", "import", str(right)).out
    private, public = keys(tmp_path / "a")
    _, stranger = keys(tmp_path / "b")
    (isolated / "foundry" / "results").mkdir()
    (isolated / "foundry" / "results" / "run-1.json").write_text('{"tokens": 1}')
    made = str(tmp_path / "out.bundle")
    signed = foundry.ok("bundle", "export", "one", "two:1", made, "--sign", str(private), "--with-results", "--json")
    assert signed.json["models"] == ["one:1", "two:1"] and len(signed.json["signedBy"]) == 64
    assert "verified" in foundry.ok("bundle", "show", made, "--verify", str(public)).err
    other = {"FOUNDRY_HOME": str(tmp_path / "elsewhere")}
    refused = foundry("bundle", "import", made, "--verify", str(stranger), env=other)
    assert refused.code == 2 and "is signed by" in refused.err
    unsigned = foundry("bundle", "import", str(right), "--verify", str(public), env=other)
    assert unsigned.code == 2 and "is not signed" in unsigned.err
    assert not (tmp_path / "elsewhere" / "models").exists()
    foundry.ok("bundle", "import", made, "--verify", signed.json["signedBy"], env=other)
    assert (tmp_path / "elsewhere" / "results" / "run-1.json").read_text() == '{"tokens": 1}'
    assert foundry("bundle", "export", "nothing", made).code == 2


def test_a_signature_does_not_fit_another_bundle(tmp_path: Path, store: Store, right: Path) -> None:
    from localfoundry.store.signing import Signer, public_key, verify

    private, public = keys(tmp_path)
    signer = Signer(private)
    assert public_key(str(public)) == signer.public_key
    bring(store, right)
    export(plan_export(store, store.manifests()[:1], [], signer), tmp_path / "one.bundle", signer=signer)
    with opened(tmp_path / "one.bundle") as bundle:
        assert bundle.signature is not None
        verify(signer.public_key, bundle.signature, bundle.index_sha256)
        flipped = bytes([bundle.signature[0] ^ 1]) + bundle.signature[1:]
        for wrong in (flipped, bytes(64)):
            with pytest.raises(BadBundle, match="not that of"):
                verify(signer.public_key, wrong, bundle.index_sha256)
        with pytest.raises(BadBundle):
            verify(signer.public_key, bundle.signature, "0" * 64)
    for what in (tmp_path / "none", public, right):
        with pytest.raises(UsageError):
            Signer(what)


def test_keys_of_ssh(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from localfoundry.store.signing import Signer, public_key

    key = Ed25519PrivateKey.generate()
    (tmp_path / "id").write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()))
    public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    (tmp_path / "id.pub").write_bytes(public + b" someone@somewhere\n")
    assert public_key(str(tmp_path / "id.pub")) == Signer(tmp_path / "id").public_key


def test_without_cryptography_it_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from localfoundry.errors import MissingExtra\n"
        "from localfoundry.store.signing import Signer\n"
        "try: Signer(Path(sys.argv[1]))\n"
        "except MissingExtra as exc: print(exc.hint)"
    )
    (tmp_path / "k").write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "k")], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == "pip install 'localfoundry[sign]'\n"


def test_manifest_values_pass_through(tmp_path: Path) -> None:
    made = manifest_of("m", {"m.gguf": ONE}, commit="c" * 40, license="mit")
    assert msgspec.convert(msgspec.to_builtins(made), Manifest) == made
    with pytest.raises(FoundryError), opened(tmp_path / "nothing"):
        pass

"""The file of keys: secrets that are kept nowhere, writers that lose nothing, and damage that lets nobody in."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.access import keys
from localfoundry.access.keys import Key, KeyFile, Keyring
from localfoundry.errors import BadKeyFile, DiskError, UsageError

NOW = time.time()


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def test_a_secret_has_256_bits_and_only_its_hash_is_kept(file: KeyFile) -> None:
    key, secret = file.create("app")
    assert secret.startswith("lf_")
    assert len(secret) >= 3 + 32 * 4 // 3
    assert file.create("other")[1] != secret
    text = file.path.read_text()
    assert secret not in text
    assert secret[3:] not in text
    assert key.sha256 in text
    assert Keyring(file).find(secret, NOW) == key
    assert Keyring(file).find(secret[:-1], NOW) is None


def test_nobody_else_can_open_the_file_at_any_time(file: KeyFile) -> None:
    previous = os.umask(0)
    try:
        file.create("app")
    finally:
        os.umask(previous)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert not list(file.path.parent.glob(".*.new"))


def test_keys_made_and_revoked_at_once_lose_none(file: KeyFile) -> None:
    """Read, change and replace without a lock once kept only the last of two writers."""
    for n in range(6):
        file.create(f"old{n}")
    work = [threading.Thread(target=file.create, args=(f"new{n}",)) for n in range(6)]
    work += [threading.Thread(target=file.revoke, args=(f"old{n}",)) for n in range(6)]
    for one in work:
        one.start()
    for one in work:
        one.join()
    assert sorted(key.name for key in file.read()) == [f"new{n}" for n in range(6)]


def test_a_name_is_given_once(file: KeyFile) -> None:
    file.create("app")
    with pytest.raises(UsageError, match="already") as caught:
        file.create("app")
    assert caught.value.hint == "foundry key revoke app"
    with pytest.raises(UsageError, match="there is no key b"):
        file.revoke("b")


@pytest.mark.parametrize("name", ["", "owner", "local", "../x", "a b", "a\n", "é", "-x", "x" * 65])
def test_names_that_would_confuse_are_refused(file: KeyFile, name: str) -> None:
    with pytest.raises(UsageError):
        file.create(name)
    assert file.read() == ()


def test_an_admin_cannot_be_limited_to_models(file: KeyFile) -> None:
    """It could load, fetch and remove any other model, so the limit would be a lie."""
    with pytest.raises(UsageError, match="limited to models"):
        file.create("ops", ("inference", "admin"), models=("fake",))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o610])
def test_a_file_that_others_can_use_is_not_trusted(file: KeyFile, mode: int) -> None:
    _, secret = file.create("app")
    file.path.chmod(mode)
    ring = Keyring(file)
    for _ in range(2):
        with pytest.raises(BadKeyFile, match=f"{mode:04o}") as caught:
            ring.find(secret, NOW)
    assert "chmod 600" in str(caught.value.hint)
    file.path.chmod(0o600)
    assert ring.find(secret, NOW)


GOOD = {"name": "a", "sha256": "0" * 64, "scopes": ["inference"], "created_at": 1}


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"version": 2, "keys": []},
        {"version": 1, "keys": [GOOD, GOOD]},
        {"version": 1, "keys": [GOOD | {"scopes": []}]},
        {"version": 1, "keys": [GOOD | {"scopes": ["root"]}]},
        {"version": 1, "keys": [GOOD | {"sha256": "lf_secret"}]},
        {"version": 1, "keys": [GOOD | {"name": "owner"}]},
        {"version": 1, "keys": [GOOD | {"request_per_minute": 5}]},
        {"version": 1, "keys": [GOOD | {"requests_per_minute": 0}]},
        {"version": 1, "keys": [GOOD | {"scopes": ["admin"], "models": ["m"]}]},
    ],
)
def test_a_file_that_is_not_exactly_right_lets_nobody_in(file: KeyFile, document: object) -> None:
    """A limit that was misspelt must not turn into no limit."""
    file.path.write_text(json.dumps(document))
    file.path.chmod(0o600)
    with pytest.raises(BadKeyFile, match=r"keys\.json"):
        file.read()


@given(st.binary(max_size=200))
def test_any_bytes_are_keys_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = KeyFile(tmp_path_factory.mktemp("k") / "keys.json")
    file.path.write_bytes(data)
    file.path.chmod(0o600)
    with pytest.raises(BadKeyFile):
        file.read()


def test_a_link_or_a_folder_in_its_place_is_refused(file: KeyFile, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text('{"version": 1, "keys": []}')
    file.path.symlink_to(tmp_path / "theirs")
    with pytest.raises(BadKeyFile):
        file.read()
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(BadKeyFile):
        file.read()


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        KeyFile(tmp_path / "file" / "keys.json").create("a")


def test_the_ring_notices_every_change_at_once(file: KeyFile) -> None:
    ring = Keyring(file)
    assert ring.current() == ()
    _, first = file.create("first")
    assert ring.find(first, NOW)
    _, second = file.create("second")
    assert ring.find(second, NOW)
    file.revoke("first")
    assert ring.find(first, NOW) is None
    assert ring.find(second, NOW)
    file.path.unlink()
    assert ring.find(second, NOW) is None


def test_a_key_ends_when_it_was_said(file: KeyFile) -> None:
    key, secret = file.create("app", expires_days=2)
    assert key.expires_at == key.created_at + 2 * 86_400
    ring = Keyring(file)
    assert ring.find(secret, key.expires_at - 1)
    assert ring.find(secret, key.expires_at) is None


def test_every_key_is_compared_wherever_the_right_one_stands(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving at the first match would tell by its time where in the file a key stands."""
    secrets = [file.create(f"k{n}")[1] for n in range(5)]
    compared: list[str] = []
    real = keys.hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", counted)
    ring = Keyring(file)
    for secret in (secrets[0], secrets[4], "lf_unknown"):
        compared.clear()
        ring.find(secret, NOW)
        assert len(compared) == 5


def test_a_key_shows_no_secret() -> None:
    assert "lf_" not in repr(Key("a", "0" * 64, ("inference",), 1))

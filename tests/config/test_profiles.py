"""Profiles in their file: kept by key, matched by bytes, machine and purpose, and a damaged file stops nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from localfoundry.config import profiles
from localfoundry.config.profiles import Profile
from localfoundry.errors import InvalidSetting


def profile(**changes: object) -> Profile:
    made = Profile(
        machine="a machine", sha256="1" * 64, purpose="chat", model="m:1", tuned_at="2026-11-23T10:00:00+00:00",
        engine="llama.cpp", engine_version="native 1", ratio=1.5, low=1.4, high=1.6, arguments=("--threads", "1"),
        evidence={"rounds": 7},
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_a_profile_is_kept_and_replaced_by_its_key(tmp_path: Path) -> None:
    assert profiles.read(tmp_path) == []
    other = profile(purpose="throughput", tuned_at="2026-11-23T11:00:00+00:00")
    for one in (profile(), other, profile(ratio=2.0)):
        profiles.save(tmp_path, one)
    assert profiles.read(tmp_path) == [other, profile(ratio=2.0)]


def test_it_matches_only_the_same_bytes_on_the_same_machine(tmp_path: Path) -> None:
    newer = profile(purpose="throughput", tuned_at="2026-11-23T11:00:00+00:00")
    known = [profile(), newer]
    assert profiles.matching(known, "a machine", "1" * 64, "auto") == newer
    assert profiles.matching(known, "a machine", "1" * 64, "chat") == profile()
    assert profiles.matching(known, "a machine", "1" * 64, "rewrite") is None
    assert profiles.matching(known, "another", "1" * 64) is None
    assert profiles.matching(known, "a machine", "2" * 64) is None


def test_forgetting_takes_what_was_named_and_no_more(tmp_path: Path) -> None:
    kept = profile(machine="another")
    for one in (profile(), profile(purpose="throughput"), kept):
        profiles.save(tmp_path, one)
    assert [p.purpose for p in profiles.forget(tmp_path, "a machine", "1" * 64, "chat")] == ["chat"]
    assert [p.purpose for p in profiles.forget(tmp_path, "a machine", "1" * 64)] == ["throughput"]
    assert profiles.read(tmp_path) == [kept]


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 9, "profiles": []}'])
def test_a_damaged_file_is_named_and_can_be_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / profiles.FILE_NAME).write_text(text)
    with pytest.raises(InvalidSetting, match=r"profiles\.json"):
        profiles.read(tmp_path)
    assert profiles.forget(tmp_path, "a machine", "1" * 64) == []
    assert profiles.read(tmp_path) == []

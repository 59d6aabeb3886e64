"""An archive of sources from elsewhere is taken apart within bounds, and never writes outside its folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from build import fake_toolchain
from localfoundry.build import source_archive
from localfoundry.errors import UnsafeArchive

TOP = "p-1.0/llama.cpp"


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for member in members:
            opened.addfile(member, io.BytesIO(b"x" * member.size) if member.isfile() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 3) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size if kind == tarfile.REGTYPE else 0
    return info


def test_only_the_sources_are_taken(tmp_path: Path) -> None:
    target = tmp_path / "src"
    target.mkdir()
    assert source_archive.unpack(fake_toolchain.sources(tmp_path / "a.tar.gz"), target) < 100
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert found == ["CMakeLists.txt", "LICENSE", "conversion/llama.py", "convert_hf_to_gguf.py",
                     "gguf-py/gguf/__init__.py"]  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        member(f"{TOP}/../../../outside"), member("/etc/outside"), member(f"{TOP}/a/../b"),
        member(f"{TOP}/link", tarfile.SYMTYPE, "/etc/passwd"), member(f"{TOP}/link", tarfile.LNKTYPE, "../x"),
        member(f"{TOP}/device", tarfile.CHRTYPE), member(f"{TOP}/pipe", tarfile.FIFOTYPE), member(f"{TOP}/a\\b"),
        member(f"{TOP}/con"),
    ],
    ids=lambda m: m.name.rpartition("/")[2] + m.type.decode(),
)  # fmt: skip
def test_a_member_that_would_leave_or_is_no_file_is_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    target = tmp_path / "deep" / "er" / "src"
    target.mkdir(parents=True)
    made = archive(tmp_path / "a.tar.gz", member(f"{TOP}/CMakeLists.txt"), bad)
    before = sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(target))
    with pytest.raises(UnsafeArchive):
        source_archive.unpack(made, target)
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(target)) == before


@pytest.mark.parametrize(
    ("bound", "value", "words"),
    [("MOST_MEMBERS", 2, "more than 2"), ("MOST_FILE_BYTES", 2, "too large"), ("MOST_BYTES", 5, "too large")],
)
def test_count_and_sizes_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, words: str
) -> None:
    made = archive(tmp_path / "a.tar.gz", *(member(f"{TOP}/{n}") for n in ("CMakeLists.txt", "b", "c")))
    monkeypatch.setattr(source_archive, bound, value)
    with pytest.raises(UnsafeArchive, match=words):
        source_archive.unpack(made, tmp_path / "src")


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 0xFF]) + data[41:]


@pytest.mark.parametrize("damage", [_cut, _flipped, lambda _: b"", lambda _: b"no archive at all" * 99])
def test_damaged_archives_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    made = fake_toolchain.sources(tmp_path / "a.tar.gz")
    made.write_bytes(damage(made.read_bytes()))
    with pytest.raises(UnsafeArchive):
        source_archive.unpack(made, tmp_path / "src")


def test_another_package_is_refused(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", member("p-1.0/setup.py"))
    with pytest.raises(UnsafeArchive, match=r"no sources of llama\.cpp"):
        source_archive.unpack(made, tmp_path / "src")

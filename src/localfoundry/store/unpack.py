"""Take one known file out of a zip archive (a wheel) without trusting the archive.

The member is looked up by name and written to a path of our choosing: its own name never becomes a path, so nothing
can be written elsewhere. Its size is bounded by what was promised, by what the archive says, and by the disk.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from localfoundry.errors import ChecksumMismatch, DiskFull, NotAModel
from localfoundry.sources.plan import ArchiveMember
from localfoundry.store import disk
from localfoundry.units import format_bytes

_PIECE_BYTES = 4 * 1024 * 1024
_MAX_RATIO = 1100  # deflate cannot do more than 1032; an archive that says so lies


def unpack_member(archive: Path, member: ArchiveMember, target: Path, report: Callable[[int], None]) -> str:
    """Write the member to `target` and return its SHA-256. Blocking.

    Raises NotAModel (no such member, no archive, damaged), ChecksumMismatch and DiskFull; `target` is then gone.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            info = _entry(opened, archive, member)
            free = disk.free_bytes(target.parent)
            if free is not None and info.file_size > free:
                raise DiskFull(
                    f"unpacking {member.path} needs {format_bytes(info.file_size)}, "
                    f"and {format_bytes(free)} are free at {target.parent}",
                    hint="make room (foundry cache clean), or put the models elsewhere: foundry cache cd PATH",
                )
            digest = _write(opened, info, target, report)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as exc:
        disk.remove_file(target)
        raise NotAModel(f"{archive.name} is not an archive that can be read: {exc}") from exc
    if member.sha256 is not None and digest != member.sha256.lower():
        disk.remove_file(target)
        raise ChecksumMismatch(f"{member.path} has the SHA-256 {digest}, but {member.sha256} was promised")
    return digest


def _entry(opened: zipfile.ZipFile, archive: Path, member: ArchiveMember) -> zipfile.ZipInfo:
    try:
        info = opened.getinfo(member.path)
    except KeyError as exc:
        raise NotAModel(f"{archive.name} has no file {member.path}") from exc
    if member.size_bytes is not None and info.file_size != member.size_bytes:
        raise ChecksumMismatch(f"{member.path} has {info.file_size} bytes, but {member.size_bytes} were promised")
    if info.is_dir() or info.file_size > _MAX_RATIO * max(info.compress_size, 1):
        raise NotAModel(f"{member.path} in {archive.name} says to be {info.file_size} bytes, which cannot be")
    return info


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, report: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    with opened.open(info) as reading, disk.writing(target), target.open("wb") as writing:
        while data := reading.read(_PIECE_BYTES):
            done += len(data)
            if done > info.file_size:
                raise zipfile.BadZipFile(f"{info.filename} is longer than it says")
            digest.update(data)
            writing.write(data)
            report(done)
        writing.flush()
        os.fsync(writing.fileno())
    if done != info.file_size:
        disk.remove_file(target)
        raise NotAModel(f"{info.filename} ends after {done} of {info.file_size} bytes")
    return digest.hexdigest()

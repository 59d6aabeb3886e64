"""The file of shared results: read with limits, replaced in one step, changed by one process at a time.

`<home>/models.json` holds what others measured; recommendations and comparisons read it. A merge decodes and checks
every file first: one that is refused leaves the target as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from localfoundry.errors import DiskError, InvalidResults
from localfoundry.results import models_json
from localfoundry.results.models_json import MAX_BYTES, VERSION, Document

FILE_NAME = "models.json"
_LOCK_WAIT_S = 10.0


def read(path: Path) -> Document:
    """Raises InvalidResults for a file that cannot be read or is not sound."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise InvalidResults(f"there is no file {path}", hint="foundry results export")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise InvalidResults(f"{path} cannot be read: {exc.strerror or exc}") from exc
    return models_json.decode(data, str(path))


def of_home(home: Path) -> Document:
    """What others measured, as far as it was merged here; empty where nothing was."""
    path = home / FILE_NAME
    return read(path) if path.exists() else Document(schema=VERSION)


def write(path: Path, document: Document) -> None:
    """Replace the file in one step. Raises DiskError, the old file being as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(models_json.encode(document))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise DiskError(f"cannot write {path}: {exc.strerror or exc}") from exc


def merge_into(target: Path, sources: Sequence[Path]) -> tuple[Document, int]:
    """All runs of `sources` into `target`, or none of them; the result, and how many runs are new there."""
    given = [read(source) for source in sources]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")).acquire(timeout=_LOCK_WAIT_S):
            old = read(target) if target.exists() else Document(schema=VERSION)
            merged = models_json.merge(old, *given)
            if len(models_json.encode(merged)) > MAX_BYTES or len(merged.runs) > models_json.MAX_RUNS:
                raise InvalidResults(
                    f"{target} would have more than {MAX_BYTES:,} bytes or {models_json.MAX_RUNS:,} runs",
                    hint=f"foundry results merge {' '.join(map(str, sources))} --into OTHER.json",
                )
            if merged != old:
                write(target, merged)
    except Timeout:
        raise DiskError(f"another process has been changing {target} for {_LOCK_WAIT_S:.0f} s") from None
    except OSError as exc:
        raise DiskError(f"cannot write {target}: {exc.strerror or exc}") from exc
    return merged, len(merged.runs) - len(old.runs)

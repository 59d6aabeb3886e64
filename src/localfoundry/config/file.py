"""The settings file as text: read with limits, replaced in one step, changed by one process at a time.

What the keys mean is `config.py`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from localfoundry.errors import DiskError, InvalidSetting

_LOCK_WAIT_S = 10.0


def read(path: Path) -> str | None:
    """The text of the file, None where there is none. Raises InvalidSetting for one that cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise InvalidSetting(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSetting(f"{path} is not UTF-8 text: {exc}", hint=_mend(path)) from exc


def decode(text: str, path: Path) -> dict[str, object]:
    """The document in a text. Raises InvalidSetting: not JSON, a key that stands twice, or not an object."""

    def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise InvalidSetting(f"{path} has the key {key!r} twice", hint=_mend(path))
            found[key] = value
        return found

    try:
        document = json.loads(text, object_pairs_hook=distinct)
    except (json.JSONDecodeError, RecursionError) as exc:
        raise InvalidSetting(f"{path} is not JSON: {exc}", hint=_mend(path)) from exc
    if not isinstance(document, dict):
        raise InvalidSetting(f"{path} holds {type(document).__name__}, not an object of settings")
    return document


def write(path: Path, text: str) -> None:
    """Replace the file in one step. Raises DiskError or InvalidSetting, the old file being as it was."""
    try:
        content = text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidSetting(f"what is to be written to {path} is not Unicode text: {exc.reason}") from exc
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # a power failure must not leave an empty file in place of the old settings
        temporary.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, exc) from exc


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """For as long as it lasts no other process changes the file. Raises DiskError after waiting 10 s."""
    from filelock import FileLock, Timeout

    folder = path.parent / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "settings.lock")
        lock.acquire(timeout=_LOCK_WAIT_S)
    except Timeout:
        raise DiskError(f"another process has been changing {path} for {_LOCK_WAIT_S:.0f} s") from None
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    try:
        yield
    finally:
        lock.release()


def _unwritable(path: Path, exc: OSError) -> DiskError:
    return DiskError(f"cannot write {path}: {exc.strerror}", hint="set FOUNDRY_HOME to a folder you may write to")


def _mend(path: Path) -> str:
    return f"foundry config edit   (or correct {path} yourself)"

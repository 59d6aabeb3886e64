"""What `foundry tune` found to be best for single models on this machine: `profiles.json` in the home.

A profile holds for the very bytes it was measured with, on the kind of machine it was measured on, and for one purpose;
one that does not match is left alone, never adapted. Whether it is used for a load is decided in `service/tuned.py`.
The file is written by the command line and read by the service at each load, so a new profile needs no restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from localfoundry.config import file
from localfoundry.errors import InvalidSetting

FORMAT = 1
FILE_NAME = "profiles.json"
PURPOSES = ("chat", "long-prompt", "throughput", "low-memory", "rewrite")


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way of loading one file that was shown to be better than the default; `sha256` is that of its main file.

    `build`: of llama.cpp, as the setting `llamaServer` calls it; None: the one that the service takes, as its settings
    named it by a path. `runs_sha256`: of the main file that is loaded instead; `runs_target`: what that was re-encoded
    to, where it was made of this very file. `draft`: a model that guesses ahead, named in the arguments too;
    `draft_target`: what that was quantized to, where it was made of this model. `ratio`: how many times better than the
    default, with its 95 % interval. `evidence` is for `tune --explain` and stays on this machine.
    """

    machine: str
    sha256: str
    purpose: str
    model: str  # the id when it was tuned
    tuned_at: str  # ISO 8601, UTC
    engine: str
    engine_version: str
    ratio: float
    low: float
    high: float
    arguments: tuple[str, ...] = ()
    parallel: int | None = None
    build: str | None = None
    runs: str | None = None  # the id when it was tuned
    runs_sha256: str | None = None
    runs_target: str | None = None
    draft: str | None = None
    draft_sha256: str | None = None
    draft_target: str | None = None
    evidence: dict[str, Any] = {}

    @property
    def key(self) -> tuple[str, str, str]:
        return self.machine, self.sha256, self.purpose

    @property
    def engine_words(self) -> str:
        """`llama.cpp (bundled)`: the engine, and its build where it has several."""
        return f"{self.engine} ({self.build})" if self.build else self.engine

    @property
    def words(self) -> str:
        """`tuned on 2026-11-23 for chat: 1.24 x the default`."""
        return f"tuned on {self.tuned_at[:10]} for {self.purpose}: {self.ratio:.2f} x the default"


class _Document(msgspec.Struct, frozen=True):
    format: int
    profiles: tuple[Profile, ...]


def read(home: Path) -> list[Profile]:
    """All profiles of a home, also those of other machines. Raises InvalidSetting for a file that cannot be used."""
    path = home / FILE_NAME
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise InvalidSetting(f"cannot read {path}: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise InvalidSetting(
            f"{FILE_NAME} holds no profiles: {exc}", hint="foundry tune MODEL --reset   (forgets all of a damaged file)"
        ) from exc
    if document.format != FORMAT:
        raise InvalidSetting(f"{FILE_NAME} has the format {document.format}; this version reads {FORMAT}")
    return list(document.profiles)


def save(home: Path, profile: Profile) -> None:
    """Keep it in place of the one for the same file, machine and purpose. Raises InvalidSetting, DiskError."""
    with file.locked(home / FILE_NAME):
        _write(home, [*(one for one in read(home) if one.key != profile.key), profile])


def forget(home: Path, machine: str, sha256: str, purpose: str | None = None) -> list[Profile]:
    """Remove those of a file on a machine, for one purpose or all, and return them; a damaged file goes as a whole.

    Raises DiskError.
    """
    with file.locked(home / FILE_NAME):
        try:
            known = read(home)
        except InvalidSetting:
            known = []
        gone = [p for p in known if (p.machine, p.sha256) == (machine, sha256) and purpose in (None, p.purpose)]
        _write(home, [profile for profile in known if profile not in gone])
    return gone


def matching(known: list[Profile], machine: str, sha256: str, use: str = "auto") -> Profile | None:
    """The profile for a file on a machine. `use`: a purpose, or `auto` for the one that was tuned last. Pure."""
    found = [p for p in known if (p.machine, p.sha256) == (machine, sha256) and use in ("auto", p.purpose)]
    return max(found, key=lambda profile: profile.tuned_at, default=None)


def _write(home: Path, known: list[Profile]) -> None:
    document = msgspec.json.encode(_Document(FORMAT, tuple(known)))
    file.write(home / FILE_NAME, msgspec.json.format(document, indent=1).decode() + "\n")

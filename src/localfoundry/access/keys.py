"""API keys: `<home>/keys.json`, made, listed and revoked; and the ring of keys that a running service checks against.

The file holds the SHA-256 of each secret, not the secret. A slow hash is for passwords, which people choose and others
guess; a secret here is 256 random bits, which nobody guesses at any speed, and it is checked on every request.

The file is replaced in one step under a lock, so two who make keys at once lose none, and a service that reads it in
between sees the old keys or the new. What is not exactly right (damaged, or open to others on this machine) lets nobody
in: BadKeyFile. Windows keeps rights apart from the mode of a file, so there only the account's own folder protects it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from localfoundry.errors import BadKeyFile, DiskError, UsageError
from localfoundry.store import disk

PREFIX = "lf_"
SECRET_BYTES = 32
RESERVED = frozenset({"owner", "local", "anyone", "nobody"})  # callers without a key, by these names in the audit log
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_FILE_BYTES = 4_000_000
_DAY_S = 86_400
_LOCK_WAIT_S = 10.0

Scope = Literal["inference", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("inference", "metrics", "admin")
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key. Times in seconds since the epoch. None: no limit, no end; no `models`: all of them."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    created_at: int
    expires_at: int | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    models: tuple[str, ...] = ()

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    keys: tuple[Key, ...]


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def check(key: Key) -> None:
    """Raises UsageError for a key that cannot be."""
    if not _NAME.fullmatch(key.name) or key.name in RESERVED:
        raise UsageError(
            f"{key.name[:80]!r} cannot be the name of a key: up to 64 letters, digits, dots, dashes and underscores, "
            f"and none of {', '.join(sorted(RESERVED))}",
            hint="foundry key create NAME",
        )
    if not key.scopes:
        raise UsageError(f"the key {key.name} has no scope", hint="--scope inference")
    if key.models and "admin" in key.scopes:
        raise UsageError(
            "a key with the scope admin cannot be limited to models: it can load, fetch and remove any of them",
            hint="foundry key create NAME --scope inference --model ID",
        )


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


class KeyFile:
    """The keys of a home. Every method reads or writes the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Key, ...]:
        """All keys, expired ones too; none where there is no file. Raises BadKeyFile."""
        try:
            with open(self.path, "rb", opener=_not_through_a_link) as stream:
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                data = stream.read(_MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise BadKeyFile(f"cannot read {self.path}: {exc.strerror}", hint=f"look at {self.path}") from exc
        if os.name != "nt" and mode & 0o077:
            raise BadKeyFile(
                f"{self.path} has the mode {mode:04o}: others on this machine can use it, so its keys are not trusted",
                hint=f"chmod 600 {self.path}, and make new keys if others were there",
            )
        return self._decoded(data)

    def _decoded(self, data: bytes) -> tuple[Key, ...]:
        try:
            if len(data) > _MAX_FILE_BYTES:
                raise msgspec.DecodeError(f"more than {_MAX_FILE_BYTES} bytes")
            keys = msgspec.json.decode(data, type=_File).keys
            for key in keys:
                check(key)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, UsageError) as exc:
            raise BadKeyFile(
                f"{self.path} is damaged: {exc}", hint=f"repair or remove {self.path}; removing it revokes every key"
            ) from exc
        if len({key.name for key in keys}) < len(keys):
            raise BadKeyFile(f"{self.path} has two keys of one name", hint=f"repair {self.path}")
        return keys

    def create(
        self,
        name: str,
        scopes: tuple[Scope, ...] = ("inference",),
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        models: tuple[str, ...] = (),
        expires_days: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key and return it with its secret, which is kept nowhere. Raises UsageError, BadKeyFile, DiskError."""
        secret, now = new_secret(), int(time.time())
        key = Key(
            name=name,
            sha256=digest(secret),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            created_at=now,
            expires_at=None if expires_days is None else now + expires_days * _DAY_S,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            models=models,
        )
        check(key)
        with self._locked():
            keys = self.read()
            if any(other.name == name for other in keys):
                raise UsageError(f"there is a key {name} already", hint=f"foundry key revoke {name}")
            self._write((*keys, key))
        return key, secret

    def revoke(self, name: str) -> Key:
        """Remove a key; a running service refuses it from the next request on. Raises as `create`."""
        with self._locked():
            keys = self.read()
            gone = next((key for key in keys if key.name == name), None)
            if gone is None:
                raise UsageError(f"there is no key {name[:80]}", hint="foundry key list")
            self._write(tuple(key for key in keys if key is not gone))
        return gone

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with disk.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            guard = disk.lock(self.path.with_suffix(".lock"))
            if not disk.acquire(guard, _LOCK_WAIT_S):
                raise DiskError(f"{self.path} has been locked by another process for {_LOCK_WAIT_S:g} s")
        try:
            yield
        finally:
            guard.release()

    def _write(self, keys: tuple[Key, ...]) -> None:
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        with disk.writing(self.path):
            fresh.unlink(missing_ok=True)
            # Made with its final mode: there is no moment in which others could open it.
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(_File(1, keys)), indent=2) + b"\n")
                stream.flush()
                os.fsync(descriptor)
            fresh.replace(self.path)
            disk.sync_folder(self.path.parent)


class Keyring:
    """The keys as a running service knows them, read again when the file changed: one `stat` per question."""

    def __init__(self, file: KeyFile) -> None:
        self.file = file
        self._stamp: tuple[int, ...] | None = None
        self._keys: tuple[Key, ...] = ()

    def current(self) -> tuple[Key, ...]:
        """All keys, as the file has them now. Raises BadKeyFile, as long as the file is bad."""
        try:
            info = self.file.path.lstat()
            stamp = info.st_mtime_ns, info.st_size, info.st_ino, info.st_mode
        except OSError:
            stamp = 0, 0, 0, 0
        if stamp != self._stamp:
            self._stamp = None  # a file that cannot be read is asked again
            self._keys = self.file.read()
            self._stamp = stamp
        return self._keys

    def find(self, secret: str, now: float) -> Key | None:
        """The key of that secret, unless it has expired. Takes the same time wherever it stands. Raises BadKeyFile."""
        wanted = digest(secret)
        found = None
        for key in self.current():
            if hmac.compare_digest(key.sha256, wanted):
                found = key
        return None if found is None or found.expired(now) else found

"""The audit log: `<home>/logs/audit.log`, one JSON object a line for everything that changed something.

Loads, unloads, downloads and shutdowns over HTTP, keys made and revoked, and where the service listened and how. Names
of keys, never secrets; which model, never a prompt. The service and the command line write the same file, each line in
one piece under a lock. It is rotated by size, so what strangers can cause may not push out what happened: requests that
were refused are told at most once a minute, with how many there were.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from localfoundry.store import disk

log = logging.getLogger(__name__)

MAX_BYTES = 5_000_000
KEPT = 4  # audit.log and audit.log.1 to .4
_LOCK_WAIT_S = 2.0
_REFUSALS_EVERY_S = 60.0
_LONGEST = 300  # characters of any one value


class Audit:
    """Writes the log of one home. A disk that says no is reported in the service's log, and answers go on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.log"
        self._refused = 0
        self._told = -_REFUSALS_EVERY_S

    def record(self, action: str, **facts: object) -> None:
        """One line: time (UTC), action, and those facts that are not None."""
        line: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action}
        line |= {
            name: value[:_LONGEST] if isinstance(value, str) else value
            for name, value in facts.items()
            if value is not None
        }
        try:
            self._append(msgspec.json.encode(line) + b"\n")
        except OSError as exc:
            log.error("the audit log cannot be written: %s; lost: %s", exc.strerror, action)

    def refused(self, **facts: object) -> None:
        """A request that was not let in; the first of each minute is written, with the number since the last line."""
        self._refused += 1
        now = time.monotonic()
        if now - self._told >= _REFUSALS_EVERY_S:
            count, self._refused, self._told = self._refused, 0, now
            self.record("refused", count=count, **facts)

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        guard = disk.lock(self.path.with_suffix(".lock"))
        if not disk.acquire(guard, _LOCK_WAIT_S):
            raise OSError(None, f"locked for more than {_LOCK_WAIT_S:g} s")
        try:
            self._rotate()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        finally:
            guard.release()

    def _rotate(self) -> None:
        try:
            if self.path.stat().st_size < MAX_BYTES:
                return
        except FileNotFoundError:
            return
        names = [self.path, *(self.path.with_name(f"{self.path.name}.{n}") for n in range(1, KEPT + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)

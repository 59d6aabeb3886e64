"""The service's log: lines as text or JSON, in a file that does not grow without end.

The daemon's standard error is the file from its first moment, so that whatever goes wrong before there is any logging,
or below Python, is in it as well. That is also why the library's rotating handler does not do: it opens a file of its
own. `Rotating` renames the file once it is full and puts a new one in the place of standard error.

Where standard error is anything else, such as a terminal or a supervisor's pipe, nothing is rotated.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from localfoundry.api import exchange
from localfoundry.api.exchange import Exchange, Observer
from localfoundry.config import Settings

LIMIT_BYTES = 8_000_000
KEPT = 3  # full files, beside the one that is written

_STDOUT, _STDERR = 1, 2
_access = logging.getLogger("localfoundry.access")


def configure(settings: Settings) -> None:
    """Send this process's logging to standard error, in the form and at the level that are set."""
    handler = Rotating(settings.log_dir / "service.log")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=settings.logging_level, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if settings.access_log:
        _access.setLevel(logging.INFO)  # asked for by name, so it does not depend on the level
    logging.raiseExceptions = False  # a full disk must not fill it further


class Rotating(logging.Handler):
    """Writes to standard error, and when that is `file` and full, makes `file` the first of `KEPT` older ones.

    A write that fails, as on a full disk, is dropped and the next one is tried.
    """

    def __init__(self, file: Path, limit_bytes: int = LIMIT_BYTES, kept: int = KEPT) -> None:
        super().__init__()
        self.file = file
        self.limit_bytes = limit_bytes
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if self._full():
                self._rotate()
            os.write(_STDERR, line)
        except (OSError, TypeError, ValueError):  # the last two: a line whose words do not fit its arguments
            self.handleError(record)

    def _full(self) -> bool:
        written = os.fstat(_STDERR)
        if written.st_size < self.limit_bytes:
            return False
        try:
            return os.path.samestat(written, self.file.stat())
        except OSError:
            return False

    def _rotate(self) -> None:
        try:
            for number in range(self.kept - 1, 0, -1):
                older = numbered(self.file, number)
                if older.exists():
                    older.replace(numbered(self.file, number + 1))
            if sys.platform == "win32":  # there, a file that is open cannot be renamed
                numbered(self.file, 1).write_bytes(self.file.read_bytes())
                os.ftruncate(_STDERR, 0)
            else:
                self._reopen()
        except OSError:  # nothing can be kept; what must not happen is that it grows for ever
            os.ftruncate(_STDERR, 0)

    def _reopen(self) -> None:
        """Put a new file in the place of the full one: on disk, as standard error, and as standard output if shared.

        The new one is opened first. Where that fails, as on a full disk, the old one is still in its place.
        """
        name = self.file.with_name(f"{self.file.name}.new")
        fresh = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.file.replace(numbered(self.file, 1))
            name.replace(self.file)
            shared = os.path.samestat(os.fstat(_STDOUT), os.fstat(_STDERR))
            os.dup2(fresh, _STDERR)
            if shared:
                os.dup2(fresh, _STDOUT)
        finally:
            os.close(fresh)


def numbered(file: Path, number: int) -> Path:
    """`service.log.1` is the newest of the older ones."""
    return file.with_name(f"{file.name}.{number}")


class TextLines(logging.Formatter):
    """A line for a person; what a record has beside its message follows as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message; request and model where the line is about one."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = exchange.current()
        if request is not None:
            line["request"] = request.request_id
            if request.model is not None:
                line["model"] = request.model
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def access(settings: Settings) -> list[Observer]:
    """The observer that writes a line for every request, where that is asked for."""
    return [_request_ended] if settings.access_log else []


def _request_ended(known: Exchange) -> None:
    fields = {
        "request": known.request_id,
        "endpoint": known.endpoint,
        "outcome": known.outcome,
        "seconds": _since(known, known.ended),
        "queue_s": _since(known, known.granted),
        "first_token_s": _since(known, known.first),
        "key": known.key,
        "model": known.model,
        "prompt_tokens": known.prompt_tokens,
        "cached_tokens": known.cached_tokens,
        "completion_tokens": known.completion_tokens,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    # A path is a client's text: as a literal it cannot begin a line of its own.
    _access.info("%s %s %d", known.method, _literal(known.path), known.status, extra={"fields": fields})


def _since(known: Exchange, moment: float | None) -> float | None:
    return None if moment is None else round(moment - known.arrived, 6)


def _literal(path: str) -> str:
    return path if path.isprintable() and " " not in path else json.dumps(path)

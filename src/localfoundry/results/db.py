"""The results file: one SQLite database that several commands may write at once, and that survives a kill.

Each row is a transaction of its own, committed when the call returns: what was measured is never lost with what was
not. The journal is a write-ahead log without a sync for each commit: a killed process loses nothing, a power cut may
lose the last rows and damages nothing. Making, migrating and setting aside happen under a file lock, as two processes
that switch the journal at once would get in each other's way.

A file that SQLite calls damaged is renamed, never removed: `results.db.damaged-20260131T120000`.
Leaves the meaning of `raw` to those who write it. No mapper: it would be longer than the queries on five tables.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from filelock import FileLock, Timeout

from localfoundry.errors import DamagedResults, DiskError, DiskFull, UnknownRun
from localfoundry.results.rows import CandidateRow, ItemRow, Judged, Kind, Run, SampleRow, Status, Timed, VoteRow
from localfoundry.results.schema import STEPS

FILE_NAME = "results.db"
_BUSY_S = 10.0
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_JSON_COLUMNS = ("machine", "protocol", "versions")

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")


def now() -> str:
    """The time of day as the file holds it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Results:
    """An open results file. Use as a context manager; may be handed to another thread, not shared between threads."""

    def __init__(self, path: Path, told: Callable[[str], None] = lambda _: None) -> None:
        """Open `path`, or make it. `told` hears one sentence where a damaged file was set aside.

        Raises DiskError, also for a file of a newer version, which is left as it is.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock").acquire(timeout=_BUSY_S):
                self._open(told)
        except Timeout:
            raise DiskError(f"another process has been opening {path} for {_BUSY_S:.0f} s") from None
        except OSError as exc:
            raise DiskError(f"cannot open {path}: {exc.strerror}") from exc

    def _open(self, told: Callable[[str], None]) -> None:
        try:
            self._db = _connect(self.path)
            self._migrate()
        except DamagedResults as exc:
            told(exc.message)
            self._db = _connect(self.path)
            self._migrate()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # Writing

    def begin(self, run: Run, candidates: Iterable[CandidateRow] = ()) -> None:
        """A run with its candidates, in one step."""
        with self.together():
            self._insert("run", run)
            for candidate in candidates:
                self._insert("candidate", candidate)

    def set_candidate(self, candidate: CandidateRow) -> None:
        """Replace what is known of a candidate: a model tells its engine only once it is loaded."""
        self._insert("candidate", candidate, replace=True)

    def add_sample(self, sample: SampleRow) -> None:
        """Measured again under the same key (a run that was resumed), the later one counts."""
        self._insert("sample", sample, replace=True)

    def add_item(self, item: ItemRow) -> None:
        self._insert("item", item, replace=True)

    def add_vote(self, vote: VoteRow) -> int:
        """The id of the new row."""
        return self._insert("vote", vote, leave_out=("id",))

    def remove_vote(self, id: int) -> None:
        self._execute("DELETE FROM vote WHERE id = ?", id)

    def finish(self, run: str, status: Status = "finished", protocol: dict[str, object] | None = None) -> None:
        """The end of a run, or of its interruption. `protocol` replaces what `begin` said."""
        self._execute("UPDATE run SET finished_at = ?, status = ? WHERE id = ?", now(), status, run)
        if protocol is not None:
            self._execute("UPDATE run SET protocol = ? WHERE id = ?", _text(protocol), run)

    def resume(self, run: str) -> None:
        """It is running again."""
        self._execute("UPDATE run SET finished_at = NULL, status = 'running' WHERE id = ?", run)

    def set_baseline(self, name: str, run: str) -> None:
        """`name` means this run from now on, and no other."""
        with self.together():
            self._execute("UPDATE run SET baseline = NULL WHERE baseline = ?", name)
            self._execute("UPDATE run SET baseline = ? WHERE id = ?", name, run)

    def remove_run(self, run: str) -> None:
        """A run with everything that belongs to it."""
        self._execute("DELETE FROM run WHERE id = ?", run)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is there as a whole, or not at all. Keep it short: others wait meanwhile."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    # Reading

    def runs(self, kind: Kind | None = None) -> list[Run]:
        """All runs, oldest first."""
        where, values = _where({"kind": kind})
        return [_run(row) for row in self._select(f"SELECT * FROM run{where} ORDER BY id", *values)]

    def run(self, name: str, kind: Kind | None = None) -> Run:
        """The run of that id, of the only id that starts or ends so, of that baseline name, or `last`.

        Raises UnknownRun.
        """
        runs = self.runs(kind)
        if name == "last" and runs:
            return runs[-1]
        found = [run for run in runs if name in (run.id, run.baseline)]
        upper = name.upper()
        # The end is random and so the short way to name one; the start is the time of day, and often shared.
        found = found or [run for run in runs if len(name) >= 4 and run.id.endswith(upper)]
        found = found or [run for run in runs if len(name) >= 4 and run.id.startswith(upper)]
        if len(found) == 1:
            return found[0]
        word = f"{len(found)} runs are" if found else "no run is"
        raise UnknownRun(f"{word} called {name!r}", hint="foundry bench list")

    def candidates(self, run: str) -> list[CandidateRow]:
        return self._rows(CandidateRow, "SELECT * FROM candidate WHERE run = ? ORDER BY rowid", run)

    def samples(self, run: str) -> list[SampleRow]:
        """In the order in which they were measured."""
        return self._rows(SampleRow, "SELECT * FROM sample WHERE run = ? ORDER BY rowid", run)

    def raw_samples(self, run: str) -> list[tuple[str, str]]:
        """Label and raw text of each sample, in that order: tens of thousands, of which nothing else is wanted."""
        rows = self._select("SELECT label, raw FROM sample WHERE run = ? ORDER BY rowid", run)
        return [(row["label"], row["raw"]) for row in rows]

    def timed(self, run: str) -> list[Timed]:
        """Times of the samples, in that order: raw texts are most of the file, and not read for them."""
        return self._columns(Timed, "FROM sample WHERE run = ? ORDER BY rowid", run)

    def items(self, run: str) -> list[ItemRow]:
        return self._rows(ItemRow, "SELECT * FROM item WHERE run = ? ORDER BY rowid", run)

    def judged(self, run: str) -> list[Judged]:
        """Items that were checked, in the order of their answers, without raw texts."""
        return self._columns(Judged, "FROM item WHERE run = ? AND passed IS NOT NULL ORDER BY rowid", run)

    def votes(self, run: str | None = None, rater: str | None = None, criterion: str | None = None) -> list[VoteRow]:
        """Votes in the order in which they were given; None means whichever."""
        where, values = _where({"run": run, "rater": rater, "criterion": criterion})
        return self._rows(VoteRow, f"SELECT * FROM vote{where} ORDER BY id", *values)

    # The file

    def _insert(
        self, table: str, row: msgspec.Struct, *, replace: bool = False, leave_out: tuple[str, ...] = ()
    ) -> int:
        values = {name: _plain(value) for name, value in msgspec.structs.asdict(row).items() if name not in leave_out}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        cursor = self._execute(f"{verb} INTO {table} ({names}) VALUES ({marks})", *values.values())
        return int(cursor.lastrowid or 0)

    def _rows(self, kind: type[R], query: str, *values: object) -> list[R]:
        return [_convert(kind, row) for row in self._select(query, *values)]

    def _columns(self, kind: type[R], query: str, *values: object) -> list[R]:
        """Rows of a struct whose fields are columns, all converted in one step."""
        try:
            rows = self._db.execute(f"SELECT {', '.join(kind.__struct_fields__)} {query}", values).fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc
        return _convert(list[kind], rows)  # type: ignore[valid-type]

    def _select(self, query: str, *values: object) -> list[dict[str, Any]]:
        try:
            cursor = self._db.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _execute(self, query: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _migrate(self) -> None:
        self._select("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = NORMAL")
        self._execute("PRAGMA foreign_keys = ON")
        version = int(self._select("PRAGMA user_version")[0]["user_version"])
        if version > len(STEPS):
            self._db.close()
            raise DiskError(
                f"{self.path} is of version {version}; this program reads up to version {len(STEPS)}",
                hint="update localfoundry, or set FOUNDRY_HOME to another folder",
            )
        if version == len(STEPS):
            self._select("SELECT id FROM run LIMIT 1")  # a damaged first page shows here and not in the middle of a run
            return
        with self.together():
            for step in STEPS[version:]:
                for statement in step:
                    self._execute(statement)
            self._execute(f"PRAGMA user_version = {len(STEPS)}")

    def _translated(self, exc: sqlite3.Error) -> DiskError:
        # The low byte is the kind; what is above it only says where it was noticed.
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            return DamagedResults(f"{self.path} is damaged ({exc}); {self._set_aside()}", hint="foundry bench list")
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(f"there is no room to write {self.path}")
        if code == sqlite3.SQLITE_BUSY:
            return DiskError(f"another process has been writing {self.path} for {_BUSY_S:.0f} s")
        return DiskError(f"cannot use {self.path}: {exc}")

    def _set_aside(self) -> str:
        self._db.close()
        stamp = f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        target = self.path.with_name(f"{self.path.name}.{stamp}")
        try:
            # Its log goes with it: left behind, SQLite would play it into the new file.
            for end in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{end}").rename(f"{target}{end}")
        except OSError as exc:
            return f"it could not be set aside: {exc.strerror}"
        return f"it was set aside as {target.name} and a new file begins"


def _connect(path: Path) -> sqlite3.Connection:
    # Answers can be private: the file is made for its owner alone, and SQLite gives its log the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return _text(value)
    return int(value) if isinstance(value, bool) else value


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _run(row: dict[str, Any]) -> Run:
    try:
        return _convert(Run, row | {name: msgspec.json.decode(row[name]) for name in _JSON_COLUMNS})
    except msgspec.DecodeError as exc:
        raise DiskError(f"run {row['id']} of the results cannot be read: {exc}") from exc


def _convert(kind: type[T], row: object) -> T:
    try:
        return msgspec.convert(row, kind, strict=False)  # SQLite has no booleans
    except msgspec.ValidationError as exc:
        raise DiskError(f"a row of the results cannot be read: {exc}") from exc


def _where(wanted: dict[str, object | None]) -> tuple[str, list[object]]:
    given = {name: value for name, value in wanted.items() if value is not None}
    return (" WHERE " + " AND ".join(f"{name} = ?" for name in given) if given else ""), list(given.values())

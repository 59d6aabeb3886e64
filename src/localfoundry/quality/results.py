"""What came of each item, kept so that nothing measured is lost: a file of JSON lines, synced after each item.

The first line says what was run (`Run`), every other one is an `ItemResult`. A file is only ever appended to. What a
crash cut off at its end is dropped when it is continued; an item that stands there twice counts as it stands last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from localfoundry.errors import DiskError, InvalidRequest

FOLDER = "results"


class SuiteRun(msgspec.Struct, frozen=True):
    """One suite of a run: its file's hash, and which of its items were asked."""

    name: str
    language: str
    sha256: str
    items: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True):
    """What is asked of whom, and how. Two runs with equal plans can be continued by each other.

    `models` are names as they were given; `endpoint` is empty for the local service.
    """

    models: tuple[str, ...]
    suites: tuple[SuiteRun, ...]
    endpoint: str = ""
    seed: int = 42
    temperature: float = 0.0
    extra_tokens: int = 0


class Run(msgspec.Struct, frozen=True, tag="run", tag_field="kind"):
    """`facts`: what each model was, told by whoever loaded it; `machine`: where; `sandbox`: what held code back."""

    plan: Plan
    started_at: str
    version: str
    facts: dict[str, dict[str, Any]] = {}
    machine: dict[str, Any] = {}
    sandbox: str = ""


class ItemResult(msgspec.Struct, frozen=True, kw_only=True, tag="item", tag_field="kind"):
    """One answer. Seconds are from the request to the end of the stream; TTFT is the first token of any kind.

    `tokens` and `prompt_tokens` are the server's counts. `error`: there is no whole answer to check, and why.
    `energy_j` is None where no counter was read.
    """

    suite: str
    language: str
    item: str
    model: str
    passed: bool
    failures: tuple[str, ...] = ()
    answer: str = ""
    calls: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    seconds: float = 0.0
    ttft_s: float | None = None
    energy_j: float | None = None
    error: str | None = None
    at: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.suite, self.language, self.item, self.model


class Recorder(Protocol):
    """Where results go; whoever runs a suite knows no more of it."""

    def record(self, result: ItemResult) -> None: ...


class ResultFile:
    """A results file that is being written. Use as a context manager."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def record(self, result: ItemResult) -> None:
        """Append, and return when it is on the disk. Raises DiskError."""
        self._append(result)

    def _append(self, line: Run | ItemResult) -> None:
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise DiskError(f"a result could not be written: {exc.strerror or exc}") from exc

    @classmethod
    def create(cls, home: Path, run: Run) -> ResultFile:
        """A new file in `home`; its name tells the time."""
        folder = home / FOLDER
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = folder / f"eval-{stamp}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made = cls(path, path.open("xb"))
        except OSError as exc:
            raise DiskError(f"{path} could not be created: {exc.strerror or exc}") from exc
        made._append(run)
        return made

    @classmethod
    def reopen(cls, path: Path) -> ResultFile:
        """Go on after the last whole line."""
        try:
            file = path.open("r+b")
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
        except OSError as exc:
            raise DiskError(f"{path} could not be continued: {exc.strerror or exc}") from exc
        return cls(path, file)


def read(path: Path) -> tuple[Run | None, list[ItemResult]]:
    """The run and the last result of each item. Lines that are no results are left out."""
    run: Run | None = None
    found: dict[tuple[str, str, str, str], ItemResult] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise DiskError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    for line in _decoded(lines):
        if isinstance(line, Run):
            run = run or line
        else:
            found[line.key] = line
    return run, list(found.values())


def _decoded(lines: list[bytes]) -> Iterator[Run | ItemResult]:
    decoder = msgspec.json.Decoder(Run | ItemResult)
    for line in lines:
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError:
            continue


def latest(home: Path, plan: Plan) -> Path:
    """The newest file of a run with this plan. Raises InvalidRequest where there is none."""
    for path in sorted((home / FOLDER).glob("eval-*.jsonl"), reverse=True):
        with path.open("rb") as file:
            head = next(_decoded([file.readline()]), None)
        if isinstance(head, Run) and head.plan == plan:
            return path
    raise InvalidRequest(
        "there is no earlier run of the same models, suites and settings to continue",
        hint="leave --resume out to begin a new one",
    )

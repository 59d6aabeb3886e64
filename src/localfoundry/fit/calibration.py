"""What was measured corrects what is predicted: ratios of both, kept in `<home>/calibration.json`.

A ratio counts for the model it was measured with, and less for others of the same engine, machine and kernel. The file
is bounded, replaced in one step, and worth nothing that could not be measured again: a damaged one is begun anew.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from filelock import FileLock, Timeout

from localfoundry.fit.interval import Interval, Source

Quantity = Literal["memory", "load", "decode", "prefill"]
MAX_OF_A_KIND = 16  # ratios kept for one model, engine, machine and quantity; the oldest go first
MAX_NOTES = 2000
_LOCK_TIMEOUT_S = 5.0
_SANE = (0.02, 50.0)  # a ratio outside is a mistake in measuring, not a machine

# Half the width of the interval, relative: after measurements of this model, of its kernel, or by others elsewhere.
_SPREAD: dict[Quantity, tuple[float, float]] = {
    "memory": (0.03, 0.05), "load": (0.35, 0.6), "decode": (0.30, 0.35), "prefill": (0.25, 0.30),
}  # fmt: skip
_OTHERS_SPREAD = 0.5


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """One comparison: measured / predicted. `model` is the file's SHA-256, `engine` has its version."""

    quantity: Quantity
    engine: str
    machine: str
    kernel: str
    model: str
    ratio: float
    here: bool = True  # False: measured by others, and imported


class _File(msgspec.Struct):
    version: int = 1
    notes: list[Note] = []


class Subject(NamedTuple):
    """What is asked about: an engine (empty: any), a machine, a kernel and a model."""

    engine: str
    machine: str
    kernel: str
    model: str


class _Correction(NamedTuple):
    ratio: float
    spread: float  # half the width of the interval, relative
    source: Source

    def of(self, predicted: Interval) -> Interval:
        value = predicted.value * self.ratio
        return Interval(value, value * (1 - self.spread), value * (1 + self.spread), self.source)


class Calibration:
    """The notes of one home. Reading is done once; `add` reads again under the lock, since others write as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes = _read(path)
        self._models = {note.model for note in self._notes}
        self._found: dict[tuple[str | None, ...], _Correction | None] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was measured yet."""
        return not self._notes

    def corrected(self, quantity: Quantity, predicted: Interval, subject: Subject) -> Interval:
        """The prediction with what is known of it applied: the median ratio, and the interval that this leaves."""
        if self.empty:
            return predicted
        model = subject.model if subject.model in self._models else None  # all that were never measured are alike
        key = quantity, subject.engine, subject.machine, subject.kernel, model
        known = self._found  # loads are planned in threads, and `add` in another begins a new one
        if key not in known:
            known[key] = self._correction(quantity, subject)
        correction = known[key]
        return predicted if correction is None else correction.of(predicted)

    def _correction(self, quantity: Quantity, subject: Subject) -> _Correction | None:
        found = [note for note in self._notes if note.quantity == quantity and subject.engine in ("", note.engine)]
        here = [note for note in found if note.here and note.machine == subject.machine]
        same = [note.ratio for note in here if note.model == subject.model]
        kin = [note.ratio for note in here if note.kernel == subject.kernel]
        others = [note.ratio for note in found if not note.here and note.model == subject.model]
        own, family = _SPREAD[quantity]
        if same:
            return _Correction(_median(same), own, "measured here")
        if kin:
            return _Correction(_median(kin), family, "predicted")
        return _Correction(_median(others), _OTHERS_SPREAD, "measured by others") if others else None

    def add(self, *notes: Note) -> None:
        """Keep notes. Blocking for a moment; what cannot be written is not worth failing for, and is left."""
        sane = [note for note in notes if _SANE[0] <= note.ratio <= _SANE[1]]
        if not sane:
            return
        with contextlib.suppress(OSError, Timeout):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock", timeout=_LOCK_TIMEOUT_S):
                self._notes = _bounded([*_read(self._path), *sane])
                self._models, self._found = {note.model for note in self._notes}, {}
                _write(self._path, self._notes)


def note_load(
    calibration: Calibration, subject: Subject, predicted_bytes: int, measured_bytes: int,
    predicted_s: float | None = None, measured_s: float | None = None,
) -> None:  # fmt: skip
    """A load as it came out: bytes held, and seconds from the start of the process where they were predicted."""
    notes = [_note("memory", subject, measured_bytes / predicted_bytes)] if predicted_bytes else []
    if predicted_s and measured_s:
        notes.append(_note("load", subject, measured_s / predicted_s))
    calibration.add(*notes)


def note_speed(
    calibration: Calibration, subject: Subject, quantity: Quantity, predicted: float, measured: float,
    *, here: bool = True,
) -> None:  # fmt: skip
    """A bench's median rate beside the prediction for the same depth, in tokens per second."""
    if predicted > 0:
        calibration.add(_note(quantity, subject, measured / predicted, here=here))


def _note(quantity: Quantity, subject: Subject, ratio: float, *, here: bool = True) -> Note:
    return Note(quantity, subject.engine, subject.machine, subject.kernel, subject.model, ratio, here)


def _median(ratios: list[float]) -> float:
    """Of at least one; not the library's, whose import takes longer than all of this."""
    ordered, middle = sorted(ratios), len(ratios) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _bounded(notes: list[Note]) -> list[Note]:
    """The newest of each kind, and of all; the order is that of time."""
    kept: list[Note] = []
    count: dict[tuple[object, ...], int] = {}
    for note in reversed(notes):
        key = note.quantity, note.engine, note.machine, note.model, note.here
        count[key] = count.get(key, 0) + 1
        if count[key] <= MAX_OF_A_KIND and len(kept) < MAX_NOTES:
            kept.append(note)
    return kept[::-1]


def _read(path: Path) -> list[Note]:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError):
        return []
    return [note for note in file.notes if _SANE[0] <= note.ratio <= _SANE[1]]


def _write(path: Path, notes: list[Note]) -> None:
    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=".calibration-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_File(notes=notes)))
        Path(staged).replace(path)
    except OSError:
        Path(staged).unlink(missing_ok=True)
        raise

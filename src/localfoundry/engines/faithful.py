"""Which tensor types an engine reads as they are: one table, with what was measured for it.

An engine that meets a type it has no kernel for re-quantizes it, and says nothing. So each type was measured: the
weights that the engine builds from a file were compared with those that the file holds (rms of the differences as a
share of the rms of the weights), on files of one type each (benchmarks/reading.py, docs/engines.md);
tests/engines/test_faithful.py holds the engine that is installed to it. What stands in no row was never measured,
and counts as not read. llama.cpp needs no row: it is what defines these types.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BOUND = 0.001  # rms of the differences / rms of the weights: float16 arithmetic stays below, a lost bit does not


@dataclass(frozen=True, slots=True)
class Reading:
    """How an engine reads a type. `changes`: by how much, see above; None: it refuses the file."""

    changes: float | None
    note: str = ""

    @property
    def faithful(self) -> bool:
        return self.changes is not None and self.changes <= BOUND


_PLAIN = Reading(0.0)
_REFUSED = Reading(None, "its reader refuses it")
_ZERO_POINTS = "its reader rounds the offsets to four bits"
# openvino_genai 2026.4.1.0, GGUF files with matrices of that type.
_OPENVINO = {
    "F32": Reading(0.0, "norms; it refuses a file of F32 matrices"),
    "F16": _PLAIN, "Q8_0": _PLAIN, "Q4_0": _PLAIN, "Q6_K": Reading(0.0002),
    "Q4_1": Reading(0.082, _ZERO_POINTS), "Q4_K": Reading(0.044, _ZERO_POINTS),
    "BF16": _REFUSED, "Q5_0": _REFUSED, "Q5_1": _REFUSED, "Q5_K": _REFUSED, "Q3_K": _REFUSED, "Q2_K": _REFUSED,
    "IQ4_NL": _REFUSED, "IQ4_XS": _REFUSED,
}  # fmt: skip
TABLE = {"openvino": _OPENVINO}


def reads(engine: str, kind: str) -> Reading:
    """How `engine` reads tensors of that type."""
    rows = TABLE.get(engine)
    return _PLAIN if rows is None else rows.get(kind, Reading(None, "not measured with this engine"))


def misread(engine: str, kinds: Iterable[str]) -> dict[str, Reading]:
    """Those of these tensor types that `engine` does not read as they are. Empty: the file can be given to it."""
    found = {kind: reads(engine, kind) for kind in sorted(set(kinds))}
    return {kind: reading for kind, reading in found.items() if not reading.faithful}


def words(engine: str, kinds: Iterable[str]) -> str | None:
    """Why `engine` ("it") is not given a file with these types; None: nothing speaks against it."""
    wrong = misread(engine, kinds)
    if not wrong:
        return None
    parts = [
        f"{kind} ({reading.note}{f': weights change by {reading.changes:.1%}' if reading.changes is not None else ''})"
        for kind, reading in wrong.items()
    ]
    return f"it does not read {', '.join(parts)} as they are"

"""The results of one run, in memory and in the results file: an item is committed there when it has been checked.

A file that cannot be written does not stop a run: the first reason is kept for whoever reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

from localfoundry.errors import DiskError
from localfoundry.quality.results import ItemResult, item_row, read_items
from localfoundry.results.db import Results
from localfoundry.results.rows import CandidateRow, Run, Status


class Record:
    """One run that is going on. Use as a context manager: leaving it by an error ends the run as failed.

    `results` None: nothing is kept.
    """

    def __init__(self, results: Results | None, run: Run, candidates: Iterable[CandidateRow]) -> None:
        self.run = run
        self.problem: str | None = None
        self._results = results
        self._candidates = {row.label: row for row in candidates}
        self._items: dict[tuple[str, str, str, str], ItemResult] = {}

    @classmethod
    def begin(cls, results: Results | None, run: Run, candidates: list[CandidateRow]) -> Record:
        """A new run. Raises DiskError."""
        if results is not None:
            results.begin(run, candidates)
        return cls(results, run, candidates)

    @classmethod
    def resume(cls, results: Results, run: Run) -> Record:
        """An earlier run with what it has. Raises DiskError."""
        made = cls(results, run, results.candidates(run.id))
        made._items = {result.key: result for result in read_items(results, run.id)}
        results.resume(run.id)
        return made

    @property
    def kept(self) -> bool:
        """Whether all of it is in the file."""
        return self._results is not None and self.problem is None

    @property
    def items(self) -> list[ItemResult]:
        """The last result of each item."""
        return list(self._items.values())

    @property
    def candidates(self) -> list[CandidateRow]:
        return list(self._candidates.values())

    def row(self, label: str) -> CandidateRow:
        """What is known of a candidate so far."""
        return self._candidates[label]

    def answered_by_another(self, row: CandidateRow) -> bool:
        """Whether there are answers under this label by another engine: no two of them compute the same."""
        known = self._candidates[row.label].engine
        return known not in (None, row.engine) and any(key[3] == row.label for key in self.done)

    @property
    def done(self) -> set[tuple[str, str, str, str]]:
        """Keys of what has a whole answer; the rest is asked again."""
        return {key for key, result in self._items.items() if result.error is None}

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.finish("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def record(self, result: ItemResult) -> None:
        """Keep it; when this returns it is committed."""
        self._items[result.key] = result
        self._write(lambda results: results.add_item(item_row(self.run.id, result)))

    def candidate(self, row: CandidateRow) -> None:
        """A model tells what it is only once it is loaded."""
        self._candidates[row.label] = row
        self._write(lambda results: results.set_candidate(row))

    def finish(self, status: Status) -> None:
        self._write(lambda results: results.finish(self.run.id, status))

    def _write(self, work: Callable[[Results], None]) -> None:
        if self._results is None or self.problem is not None:
            return
        try:
            work(self._results)
        except DiskError as exc:
            self.problem = exc.message

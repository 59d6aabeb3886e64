"""Each sample into the results file as soon as it is measured, from a thread of its own.

Writing in the event loop would hold up the reading of other streams, and so their times. A file that cannot be written
does not stop a measurement: the first reason is kept for whoever reports, and the rest stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Plan
from localfoundry.bench.request import Sample
from localfoundry.errors import DiskError
from localfoundry.results.db import Results
from localfoundry.results.rows import CandidateRow, Run, SampleRow, Status


class Protocol(msgspec.Struct, frozen=True):
    """What a run's row keeps, enough to do it again; and what was seen of candidates besides their samples."""

    plan: Plan
    candidates: tuple[Candidate, ...]
    seen: dict[str, Seen] = {}
    energy: str = "unavailable"
    idle_w: float = 0.0


class Seen(msgspec.Struct, frozen=True):
    """An `Outcome` without its samples."""

    load_s: float | None = None
    error: str | None = None
    failed: dict[str, str] = {}
    saturated: dict[str, str] = {}
    peak_bytes: int | None = None
    memory: dict[str, int] = {}
    apart: bool = False


def protocol(result: Measurement) -> Protocol:
    """Everything of a measurement that is not a sample."""
    seen = {
        o.candidate.label: Seen(o.load_s, o.error, o.failed, o.saturated, o.peak_bytes, o.memory, o.apart)
        for o in result.outcomes
    }
    return Protocol(result.plan, tuple(o.candidate for o in result.outcomes), seen, result.energy, result.idle_w)


def plain(value: Protocol) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(value)
    return found


class Recorder:
    """Writes one run. Use as a context manager; leaving it waits until everything is written."""

    def __init__(self, results: Results, run: str) -> None:
        self.run = run
        self.problem: str | None = None
        self._results = results
        self._thread = ThreadPoolExecutor(1, "results")

    @classmethod
    def begin(cls, results: Results, run: Run, candidates: tuple[Candidate, ...]) -> Recorder:
        """A new run. Raises DiskError."""
        results.begin(run, [candidate_row(run.id, candidate) for candidate in candidates])
        return cls(results, run.id)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._write(lambda: self._results.finish(self.run, "failed"))
        self._thread.shutdown()

    def sample(self, sample: Sample) -> None:
        """Keep it, unless it is a warm-up that went well. Returns at once."""
        if sample.round or sample.error:
            self._write(lambda: self._results.add_sample(sample_row(self.run, sample)))

    def candidate(self, row: CandidateRow) -> None:
        self._write(lambda: self._results.set_candidate(row))

    def finish(self, result: Measurement) -> None:
        """The end, or that of what was interrupted."""
        status: Status = "interrupted" if result.interrupted else "finished"
        self._write(lambda: self._results.finish(self.run, status, plain(protocol(result))))

    def _write(self, work: Callable[[], None]) -> None:
        self._thread.submit(self._guarded, work)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            if self.problem is None:
                work()
        except DiskError as exc:
            self.problem = exc.message


def candidate_row(run: str, candidate: Candidate) -> CandidateRow:
    return CandidateRow(
        run, candidate.label, candidate.model, endpoint_host=candidate.host, price_in=candidate.price_in,
        price_out=candidate.price_out,
    )  # fmt: skip


def sample_row(run: str, sample: Sample) -> SampleRow:
    return SampleRow(
        run=run,
        label=sample.label,
        scenario=sample.scenario,
        language=sample.language,
        load=sample.load,
        round=sample.round,
        seq=sample.seq,
        prompt_id=sample.prompt_id,
        ok=sample.error is None,
        ttft_s=sample.ttft_s,
        ttfa_s=sample.ttfa_s,
        itl_s=sample.itl_s,
        latency_s=sample.latency_s,
        prompt_tokens=sample.prompt_tokens,
        cached_tokens=sample.cached_tokens,
        completion_tokens=sample.completion_tokens,
        raw=msgspec.json.encode(sample).decode(),
    )

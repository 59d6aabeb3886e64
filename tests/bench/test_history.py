"""Runs that were kept: read back as they were, gone on with, and set beside another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from bench.clock_server import ClockServer, Script
from localfoundry.bench import energy, history
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.energy import Meter
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Plan
from localfoundry.bench.record import Protocol, Recorder, plain
from localfoundry.bench.request import Sample
from localfoundry.bench.run import Watch, measure
from localfoundry.chat.target import Target
from localfoundry.cli.bench_check import TOO_NOISY, WORSE, verdict
from localfoundry.errors import DiskError
from localfoundry.results.db import Results
from localfoundry.results.rows import Run

A, B = Candidate("a", "a"), Candidate("b", "b")


class Kept(Watch):
    def __init__(self, recorder: Recorder, stop_after: int = 10**9) -> None:
        self._recorder = recorder
        self._left = stop_after

    def sample(self, sample: Sample) -> None:
        self._recorder.sample(sample)
        self._left -= 1
        if self._left == 0:
            task = next(one for one in asyncio.all_tasks() if one.get_name() == "measuring")
            task.cancel()


async def kept(results: Results, server: ClockServer, plan: Plan, id: str, stop_after: int = 10**9) -> Measurement:
    run = Run(id, "bench", "2026-01-01T00:00:00+00:00", protocol=plain(Protocol(plan, (A, B))))
    with Recorder.begin(results, run, (A, B)) as recorder:
        work = measure(Target(server.url), [A, B], plan=plan, watch=Kept(recorder, stop_after))
        result = await asyncio.create_task(work, name="measuring")
        recorder.finish(result)
    assert recorder.problem is None
    return result


async def test_a_measurement_comes_back_as_it_was(tmp_path: Path) -> None:
    plan = Plan(rounds=2, concurrency=(1, 2), scenarios=("course",))
    scripts = {"a": Script(cached_tokens=3), "b": Script(fails_after=6)}
    async with ClockServer(scripts).running() as server:
        with Results(tmp_path / "r.db") as results:
            result = await kept(results, server, plan, "R1")
            found = history.read(results, results.run("R1"))
            rows = results.samples("R1")
    assert found.plan == plan
    assert found.outcomes == result.outcomes
    assert "HTTP 500" in (found.outcomes[1].error or "")
    first = rows[0]
    where = (first.label, first.scenario, first.language, first.load, first.cached_tokens)
    assert where == ("a", "course", "da", "c=1", 3)
    assert {row.ok for row in rows} == {True, False}


async def test_what_was_cut_off_goes_on_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    plan = Plan(rounds=3, scenarios=("course",), languages=("da",))
    async with ClockServer({"a": Script(), "b": Script()}).running() as server:
        with Results(tmp_path / "r.db") as results:
            cut = await kept(results, server, plan, "R1", stop_after=15)
            assert cut.interrupted
            assert results.run("R1").status == "interrupted"
            before = history.read(results, results.run("R1"))
            earlier = [sample for outcome in before.outcomes for sample in outcome.samples]
            # Two warm-ups, a round of each, and five of eight of the second.
            assert len(earlier) == 13
            asked = len(server.records)
            with Recorder(results, "R1") as recorder:
                whole = await measure(Target(server.url), [A, B], plan=plan, watch=Kept(recorder), done=earlier)
                recorder.finish(whole)
            assert len(results.samples("R1")) == 24
            assert results.run("R1").status == "finished"
    assert [len(outcome.samples) for outcome in whole.outcomes] == [12, 12]
    # Two warm-ups; b's second round from its beginning, as it was not whole; and both third rounds.
    assert len(server.records) - asked == 2 + 4 + 8
    numbers = [(s.label, s.round, s.seq) for s in whole.outcomes[1].samples]
    assert len(set(numbers)) == len(numbers)


async def test_a_file_that_cannot_be_written_does_not_stop_a_measurement(tmp_path: Path) -> None:
    async with ClockServer({"a": Script(), "b": Script()}).running() as server:
        results = Results(tmp_path / "r.db")
        plan = Plan(rounds=2)
        results.begin(Run("R1", "bench", "x", protocol=plain(Protocol(plan, (A, B)))))
        results.close()
        with Recorder(results, "R1") as recorder:
            result = await measure(Target(server.url), [A, B], plan=plan, watch=Kept(recorder))
            recorder.finish(result)
    assert [len(outcome.good) for outcome in result.outcomes] == [2, 2]
    assert "cannot use" in (recorder.problem or "")


def test_a_run_of_another_kind_is_refused() -> None:
    with pytest.raises(DiskError, match="run X cannot be read"):
        history.read_protocol(Run("X", "eval", "x", protocol={"suite": "chat"}))


def run_of(latency: float, spread: tuple[float, ...] = (1.0, 1.01, 0.99, 1.02, 0.98), label: str = "a") -> Measurement:
    from localfoundry.bench.outcome import Outcome

    samples = []
    for number, factor in enumerate(spread, 1):
        first, last = latency / 10, latency * factor
        samples.append(Sample(label, label, number, 0.0, last, first, first, last, completion_tokens=9))
    return Measurement(Plan(), "x", [Outcome(Candidate(label, label), samples=samples)])


def judged(old: Measurement, new: Measurement, margin: float = 0.1) -> int:
    return verdict(history.changes(old, new, margin), history.missing(old, new))


def test_slower_is_worse_faster_is_better_and_within_the_margin_it_is_nothing() -> None:
    assert judged(run_of(1.0), run_of(1.0)) == 0
    assert judged(run_of(1.0), run_of(1.3)) == WORSE
    assert judged(run_of(1.3), run_of(1.0)) == 0
    assert judged(run_of(1.0), run_of(1.08)) == 0
    assert judged(run_of(1.0), run_of(1.08), margin=0.02) == WORSE
    found = {change.metric: change.judgement for change in history.changes(run_of(1.3), run_of(1.0), 0.1)}
    assert found == {"latency_s": "better", "ttft_s": "better", "decode_tps": "better"}


def test_noise_and_too_few_rounds_conclude_nothing() -> None:
    assert judged(run_of(1.0), run_of(1.0, (0.4, 2.0, 1.0, 3.0, 0.6))) == TOO_NOISY
    assert judged(run_of(1.0, (1.0,)), run_of(2.0, (1.0,))) == TOO_NOISY
    assert judged(run_of(1.0), run_of(1.0, label="b")) == WORSE, "what was measured then gives no result now"


def test_a_failure_now_is_worse_whatever_was_measured_before_it() -> None:
    broken = run_of(1.0)
    broken.outcomes[0].samples.clear()
    broken.outcomes[0].error = "the engine refused the file"
    assert history.missing(run_of(1.0), broken) == ["a (chat/en/c=1) gave no result: the engine refused the file"]
    assert judged(run_of(1.0), broken) == WORSE


async def test_energy_of_a_round_is_shared_by_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "IDLE_S", 0)

    class Counter:
        name = "RAPL"
        read = 0.0

        def joules(self) -> float:
            self.read += 6.0
            return self.read

    meter = Meter([Counter()], lambda: 0.0)
    async with ClockServer({"a": Script()}).running() as server:
        result = await measure(Target(server.url), [A], plan=Plan(rounds=1, concurrency=(2,)), meter=meter)
    assert result.energy == "RAPL"
    assert [sample.energy_j for sample in result.outcomes[0].samples] == [1.5] * 4


def test_a_kept_sample_reads_back_exactly() -> None:
    sample = Sample("a", "a", 1, 0.123456, 2.0, chunk_times_s=(0.1, 0.2), answer="æ", due_s=0.1)
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Sample) == sample

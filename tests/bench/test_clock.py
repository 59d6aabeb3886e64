"""A server whose clock is known, in virtual time: what is reported is what was set, at every load, within 2 %.

In virtual time only the measuring's own arithmetic is under test. That the same holds on a real clock is measured by
benchmarks/bench_clock.py and stands in docs/benchmarks.md.
"""

from __future__ import annotations

import statistics

import pytest

from bench import virtual_time
from bench.clock_server import ClockServer, Script
from localfoundry.bench import figures
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.figures import Cell
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.plan import Plan
from localfoundry.bench.run import measure
from localfoundry.bench.slo import Slo
from localfoundry.chat.target import Target

TWO_PERCENT = 0.02
LEVELS = (1, 2, 4, 8, 16, 32)


def measured(script: Script, plan: Plan) -> Measurement:
    async def work() -> Measurement:
        async with ClockServer({"m": script}).running() as server:
            return await measure(Target(server.url), [Candidate("m", "m")], plan=plan, clock=virtual_time.now)

    return virtual_time.run(work())


def cells(script: Script, plan: Plan) -> dict[str, Cell]:
    result = measured(script, plan)
    assert result.outcomes[0].error is None
    return {cell.condition.load: cell for cell in figures.cells(result.plan, result.outcomes)}


def median(cell: Cell, name: str) -> float:
    summary = figures.metric(cell, name)
    assert summary is not None
    return summary.median


@pytest.mark.parametrize(
    "script",
    [
        Script(tokens=9, ttft_s=0.5, gap_s=0.025),
        Script(tokens=24, tokens_per_chunk=4, ttft_s=0.5, gap_s=0.1),
        Script(tokens=9, reasoning_chunks=4, ttft_s=0.4, gap_s=0.05),
        Script(tokens=9, ttft_s=0.3, gap_s=0.05, stall_after=5, stall_s=2.0),
    ],
    ids=["a token at a time", "several tokens in a chunk", "reasoning first", "a stall in the middle"],
)
def test_every_figure_is_the_one_that_was_set(script: Script) -> None:
    plan = Plan(concurrency=LEVELS, rounds=1, slo=Slo(ttft_s=1.0))
    found = cells(script, plan)
    assert list(found) == [f"c={level}" for level in LEVELS], "a server without end has no saturation"
    chunks = -(-script.tokens // script.tokens_per_chunk)
    span = (chunks - 1) * script.gap_s + script.stall_s
    for level in LEVELS:
        cell = found[f"c={level}"]
        assert cell.failures == 0
        assert len(cell.samples) == (1 if level == 1 else 2 * level)
        assert median(cell, "ttft_s") == pytest.approx(script.ttft_s, rel=TWO_PERCENT)
        first_answer = script.ttft_s + script.reasoning_chunks * script.gap_s
        assert median(cell, "ttfa_s") == pytest.approx(first_answer, rel=TWO_PERCENT)
        assert median(cell, "itl_s") == pytest.approx(span / (script.tokens - 1), rel=TWO_PERCENT)
        assert median(cell, "latency_s") == pytest.approx(script.ttft_s + span, rel=TWO_PERCENT)
        truth = level * script.tokens / (script.ttft_s + span)
        throughput = figures.throughput(cell, plan)
        assert throughput is not None
        assert throughput.mean == pytest.approx(truth, rel=TWO_PERCENT)
        assert figures.goodput(cell, plan) == 1.0


def test_a_sweep_ends_where_throughput_no_longer_grows() -> None:
    """Four places: eight streams get no more out of it than four, and sixteen need not be tried."""
    result = measured(Script(tokens=10, ttft_s=0.2, gap_s=0.05, slots=4), Plan(concurrency=LEVELS, rounds=3))
    found = {cell.condition.load: cell for cell in figures.cells(result.plan, result.outcomes)}
    assert list(found) == ["c=1", "c=2", "c=4", "c=8"]
    assert (found["c=8"].saturated or "").startswith("throughput no longer grows: c=8 / c=4 = 1.00, 95 % 1.00 to 1.00")
    assert found["c=4"].saturated is None
    four, eight = (figures.throughput(found[load], result.plan) for load in ("c=4", "c=8"))
    assert four is not None
    assert eight is not None
    assert eight.mean == pytest.approx(four.mean, rel=TWO_PERCENT)
    assert median(found["c=8"], "ttft_s") > 2 * median(found["c=4"], "ttft_s"), "the queue is in the time"


def test_goodput_is_the_share_that_kept_the_bounds() -> None:
    """Every fourth answer stalls for two seconds behind its third token: three of four keep a bound of 100 ms."""
    plan = Plan(concurrency=(1,), rates=(2.0,), duration_s=20, rounds=2, slo=Slo(ttft_s=1.0, itl_s=0.1))
    script = Script(tokens=6, ttft_s=0.2, gap_s=0.02, stall_after=3, stall_s=2.0, stall_every=4)
    cell = cells(script, plan)["rate=2"]
    assert len(cell.samples) == 80
    assert figures.goodput(cell, plan) == pytest.approx(0.75, rel=TWO_PERCENT)
    # The wall time of a round has an answer's time in it after the last arrival, and a pause before the first.
    assert figures.goodput_rps(cell, plan) == pytest.approx(0.75 * 2, rel=0.15)


def test_arrivals_do_not_wait_for_answers_and_a_stall_is_in_everyones_time() -> None:
    """One place and arrivals twice as fast as it answers: in a closed loop nobody would wait; here the queue grows.

    Coordinated omission is to send the next request only when the server has answered, and so to measure its best.
    """
    script = Script(tokens=2, ttft_s=0.9, gap_s=0.1, slots=1)
    plan = Plan(concurrency=(1,), rates=(2.0,), duration_s=20, rounds=1)
    found = cells(script, plan)
    alone, arriving = found["c=1"], found["rate=2"]
    assert median(alone, "latency_s") == pytest.approx(1.0, rel=TWO_PERCENT)
    waits = [sample.latency_s for sample in sorted(arriving.good, key=lambda s: s.asked_s)]
    # 40 requests in 20 seconds, served one a second: the last is there at the end of the 40th second.
    due = arriving.good[-1].asked_s - arriving.good[0].asked_s
    assert waits[-1] == pytest.approx(40 - due, rel=0.05)
    assert statistics.median(waits) > 5
    assert all(sample.due_s is not None and sample.sent_s >= sample.due_s - 1e-5 for sample in arriving.good)
    assert arriving.late == 0, "sending waits for nobody"


def test_what_is_not_answered_in_time_is_a_result_and_not_left_out() -> None:
    """One place, a hundred times too many requests: what is not answered some time after the last arrival failed."""
    script = Script(tokens=2, ttft_s=4.0, gap_s=1.0, slots=1)
    plan = Plan(concurrency=(), rates=(10.0,), duration_s=10, rounds=1, slo=Slo(latency_s=30))
    cell = cells(script, plan)["rate=10"]
    assert len(cell.samples) == 100
    assert cell.failures >= 80
    assert {sample.error for sample in cell.samples if sample.error} == {"not answered when the measuring ended"}
    share = figures.goodput(cell, plan)
    assert share is not None
    assert share <= 0.2

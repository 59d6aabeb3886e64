"""Figures from raw samples: medians, throughput, goodput, cost, ratios, and where a sweep ends. Pure.

A cell is one candidate under one condition. At one stream each request is an observation of its own. At a load the
requests of one round share the machine and are alike for that reason, so there a round is the observation: intervals
and comparisons rest on the medians of rounds, percentiles on all requests.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec

from localfoundry.bench import stats
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.loads import LATE_S
from localfoundry.bench.outcome import Outcome
from localfoundry.bench.plan import Condition, Plan
from localfoundry.bench.request import Sample
from localfoundry.bench.stats import Interval, Ratio, Summary

METRICS: dict[str, Callable[[Sample], float | None]] = {
    "ttft_s": lambda s: s.ttft_s,
    "ttfa_s": lambda s: s.ttfa_s,
    "itl_s": lambda s: s.itl_s,
    "decode_tps": lambda s: s.decode_tps,
    "prefill_tps": lambda s: s.prefill_tps,
    "latency_s": lambda s: s.latency_s,
    "engine_prefill_tps": lambda s: s.engine_prefill_tps,
    "engine_decode_tps": lambda s: s.engine_decode_tps,
    "energy_j": lambda s: s.energy_j,
}
COMPARED = ("latency_s", "ttft_s", "decode_tps")


class Cell(msgspec.Struct):
    """One candidate under one condition. `samples` without warm-ups; with `error` set they end before their time."""

    candidate: Candidate
    condition: Condition
    samples: list[Sample] = []
    error: str | None = None
    load_s: float | None = None
    saturated: str | None = None
    apart: bool = False

    @property
    def label(self) -> str:
        return self.candidate.label

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.error is None]

    @property
    def alone(self) -> bool:
        """Whether each request had the machine for itself."""
        return self.condition.load == "c=1"

    @property
    def failures(self) -> int:
        return len(self.samples) - len(self.good)

    @property
    def late(self) -> int:
        """Requests of an open loop that were sent later than due: the measuring itself did not keep up."""
        if self.condition.rate is None:
            return 0
        return sum(1 for s in self.samples if s.due_s is not None and s.sent_s - s.due_s > LATE_S)

    def rounds(self) -> dict[int, list[Sample]]:
        """All samples by round, failed ones included."""
        found: dict[int, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.round, []).append(sample)
        return found


def metric(cell: Cell, name: str) -> Summary | None:
    """None where it was not measured once; failed requests are left out."""
    read = METRICS[name]
    values = [(sample.round, value) for sample in cell.good if (value := read(sample)) is not None]
    rounds = None if cell.alone else [number for number, _ in values]
    return stats.summarize([value for _, value in values], rounds)


def metrics(cell: Cell) -> dict[str, Summary]:
    return {name: summary for name in METRICS if (summary := metric(cell, name)) is not None}


def throughputs(cell: Cell, plan: Plan) -> dict[int, float]:
    """All output tokens / wall time, by round; rounds that were cut off or not counted by the server are left out.

    Wall time is from the first request that was due to the last answer. At one stream that would count the pauses in
    which others were measured, and so there it is the time spent on the requests.
    """
    found = {}
    whole = plan.requests(cell.condition)
    for number, samples in cell.rounds().items():
        good = [s for s in samples if s.error is None]
        counts = [s.completion_tokens for s in good if s.completion_tokens is not None]
        if len(samples) < whole or not good or len(counts) < len(good):
            continue
        if cell.alone:
            wall = sum(s.latency_s for s in samples)
        else:
            wall = max(s.done_s for s in samples) - min(s.asked_s for s in samples)
        if wall > 0:
            found[number] = sum(counts) / wall
    return found


def throughput(cell: Cell, plan: Plan) -> Summary | None:
    """Over rounds: its mean has a t interval."""
    return stats.summarize(list(throughputs(cell, plan).values()))


def costs(cell: Cell) -> Summary | None:
    """Of one request, in the currency that the prices are in."""
    return stats.summarize([cost for sample in cell.good if (cost := cell.candidate.cost(sample)) is not None])


def goodput(cell: Cell, plan: Plan) -> float | None:
    """The share of requests that kept the plan's bounds, failed ones counted as not; None without bounds."""
    return plan.slo.share_kept(cell.samples) if plan.slo else None


def goodput_rps(cell: Cell, plan: Plan) -> float | None:
    """Requests a second that kept the bounds, over the wall time of the rounds."""
    share = goodput(cell, plan)
    if share is None or not cell.samples:
        return None
    spans = [max(s.done_s for s in one) - min(s.asked_s for s in one) for one in cell.rounds().values()]
    return share * len(cell.samples) / sum(spans) if sum(spans) > 0 else None


def ratio(a: Cell, b: Cell, name: str = "latency_s") -> Ratio | None:
    """`a` / `b`, paired by prompt, or at a load by round; None where nothing can be paired."""
    left, right = _observations(a, name), _observations(b, name)
    common = sorted(left.keys() & right.keys())
    return stats.paired_ratio([left[k] for k in common], [right[k] for k in common]) if common else None


def throughput_ratio(a: Cell, b: Cell, plan: Plan) -> Ratio | None:
    """As `ratio`, of throughput, by round."""
    left, right = throughputs(a, plan), throughputs(b, plan)
    common = sorted(left.keys() & right.keys())
    return stats.paired_ratio([left[k] for k in common], [right[k] for k in common]) if common else None


def _observations(cell: Cell, name: str) -> dict[tuple[int, int], float]:
    read = METRICS[name]
    found = {(s.round, s.seq): value for s in cell.good if (value := read(s))}
    if cell.alone:
        return found
    rounds: dict[int, list[float]] = {}
    for (number, _), value in found.items():
        rounds.setdefault(number, []).append(value)
    return {(number, 0): statistics.median(values) for number, values in rounds.items()}


GROWTH = 1.05  # what more concurrency must bring at least, where there are too few rounds for an interval
_ROUNDS_FOR_INTERVAL = 3


def saturation(plan: Plan, samples: Sequence[Sample], condition: Condition) -> str | None:
    """Why a sweep ends after this level, or None where it goes on.

    Throughput at this level over that at the one below, paired by round: it goes on while the interval of the ratio
    lies above 1. With under three rounds there is no interval worth the name, and the ratio itself must reach 1.05.
    """
    levels = sorted(level for level in set(plan.concurrency) if level <= (condition.concurrency or 0))
    if len(levels) < 2:
        return None
    here, below = (
        _cell_of(plan, samples, msgspec.structs.replace(condition, concurrency=level))
        for level in (levels[-1], levels[-2])
    )
    found = throughput_ratio(here, below, plan)
    if found is None:
        return "no throughput to compare: the server does not count its tokens" if here.good else None
    if found.n < _ROUNDS_FOR_INTERVAL or found.interval is None:
        grows, range_ = found.value >= GROWTH, ""
    else:
        grows, range_ = found.interval.low > 1, f", 95 % {_three(found.interval)}"
    if grows:
        return None
    return f"throughput no longer grows: c={levels[-1]} / c={levels[-2]} = {found.value:.2f}{range_}"


def _cell_of(plan: Plan, samples: Sequence[Sample], condition: Condition) -> Cell:
    mine = [s for s in samples if _under(s, condition) and s.round]
    return Cell(Candidate("", ""), condition, mine)


def _under(sample: Sample, condition: Condition) -> bool:
    return (sample.scenario, sample.language, sample.load) == (condition.scenario, condition.language, condition.load)


def _three(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"


def cells(plan: Plan, outcomes: Sequence[Outcome]) -> list[Cell]:
    """Condition by condition, in it candidate by candidate; what was never begun because a sweep ended is left out."""
    found = []
    for condition in plan.conditions():
        for outcome in outcomes:
            if condition.key in outcome.saturated:
                continue
            mine = [s for s in outcome.samples if _under(s, condition) and s.round]
            error = outcome.failed.get(condition.key) or outcome.error
            found.append(
                Cell(
                    outcome.candidate, condition, mine, error, outcome.load_s, _end(plan, outcome, condition),
                    outcome.apart,
                )
            )  # fmt: skip
    return found


def _end(plan: Plan, outcome: Outcome, condition: Condition) -> str | None:
    """The words for a sweep's end, at its last level."""
    above = [level for level in sorted(set(plan.concurrency)) if level > (condition.concurrency or 0)]
    if condition.rate is not None or not above:
        return None
    return outcome.saturated.get(msgspec.structs.replace(condition, concurrency=above[0]).key)

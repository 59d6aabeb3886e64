"""Measurements read back from the results file, and one set beside another: what changed, and is it shown.

Trade-off: two runs are paired by the place of each prompt, but lie minutes or months apart. What the machine did
differently in between is in the ratio and not in its interval, so a change counts only beyond a margin; measure
candidates in one run where that is possible.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from localfoundry.bench import figures
from localfoundry.bench.figures import Cell
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.record import Protocol, Seen
from localfoundry.bench.request import Sample
from localfoundry.bench.stats import Ratio
from localfoundry.errors import DiskError
from localfoundry.results.db import Results
from localfoundry.results.rows import Run

MARGIN = 0.10
_LOWER_IS_BETTER = {"latency_s": True, "ttft_s": True, "decode_tps": False, "throughput_tps": False}

Judgement = Literal["worse", "better", "no difference shown", "too noisy to conclude", "not enough runs"]


class Change(msgspec.Struct, frozen=True):
    """One metric of one candidate under one condition: new / old."""

    label: str
    condition: str
    metric: str
    ratio: Ratio
    judgement: Judgement


def read_protocol(run: Run) -> Protocol:
    """Raises DiskError for a row that is no bench's."""
    try:
        return msgspec.convert(run.protocol, Protocol)
    except msgspec.ValidationError as exc:
        raise DiskError(f"run {run.id} cannot be read: {exc}") from exc


def read(results: Results, run: Run) -> Measurement:
    """A measurement as it was. Raises DiskError."""
    known = read_protocol(run)
    outcomes: dict[str, Outcome] = {}
    for candidate in known.candidates:
        seen = known.seen.get(candidate.label, Seen())
        outcomes[candidate.label] = Outcome(
            candidate, seen.load_s, [], seen.error, seen.failed, seen.saturated, seen.peak_bytes, seen.memory,
            seen.apart,
        )  # fmt: skip
    decoder = msgspec.json.Decoder(Sample)
    for label, raw in results.raw_samples(run.id):
        try:
            sample = decoder.decode(raw)
        except msgspec.DecodeError as exc:
            raise DiskError(f"a sample of run {run.id} cannot be read: {exc}") from exc
        if label in outcomes:
            outcomes[label].samples.append(sample)
    return Measurement(
        known.plan, run.started_at, list(outcomes.values()), interrupted=run.status != "finished",
        energy=known.energy, idle_w=known.idle_w,
    )  # fmt: skip


def changes(old: Measurement, new: Measurement, margin: float = 0.0) -> list[Change]:
    """Every metric that both have, candidate by candidate. `margin`: 0.1 means that up to 10 % is no difference."""
    before = {(c.label, c.condition.key): c for c in figures.cells(old.plan, old.outcomes)}
    found = []
    for cell in figures.cells(new.plan, new.outcomes):
        earlier = before.get((cell.label, cell.condition.key))
        if earlier is None:
            continue
        for name, lower_is_better in _LOWER_IS_BETTER.items():
            ratio = _ratio(cell, earlier, name, new, old)
            if ratio is not None:
                judgement = judge(ratio, lower_is_better, margin)
                found.append(Change(cell.label, cell.condition.key, name, ratio, judgement))
    return found


def _ratio(new: Cell, old: Cell, name: str, now: Measurement, then: Measurement) -> Ratio | None:
    if name != "throughput_tps":
        return figures.ratio(new, old, name)
    # At one stream it says the same as the latency, with fewer values.
    return None if new.alone else figures.throughput_ratio(new, old, now.plan)


def judge(ratio: Ratio, lower_is_better: bool, margin: float) -> Judgement:
    """Whether the whole interval of new / old lies beyond the margin, on one side of 1."""
    if ratio.interval is None or ratio.verdict == "not enough runs":
        return "not enough runs"
    if ratio.verdict == "too noisy to conclude":
        return "too noisy to conclude"
    if ratio.interval.low > 1 + margin:
        return "worse" if lower_is_better else "better"
    if ratio.interval.high < 1 / (1 + margin):
        return "better" if lower_is_better else "worse"
    return "no difference shown"


def missing(old: Measurement, new: Measurement) -> list[str]:
    """What the old run measured and the new one did not, in words: a model that fails now is a change for the worse."""
    after = {(c.label, c.condition.key): c for c in figures.cells(new.plan, new.outcomes) if c.good}
    words = []
    for cell in figures.cells(old.plan, old.outcomes):
        if cell.good and (cell.label, cell.condition.key) not in after:
            failed = next((o.error or o.failed.get(cell.condition.key) for o in new.outcomes
                           if o.candidate.label == cell.label), None)  # fmt: skip
            words.append(f"{cell.label} ({cell.condition.key}) gave no result: {failed or 'not measured'}")
    return words

"""What the evidence allows to be said: ratios with their intervals, and a choice for development and for production.

Pure: evidence in, frozen values out. A choice cites each figure that it rests on, with its interval, the number of
requests or items, and the run. Without evidence there is no winner; where the leaders are not told apart, neither is.

| purpose | decided by |
|---|---|
| development | the time of a whole answer: the fastest, if it is shown to be faster than every other |
| production | items solved: those not shown to be worse than another; of these whom people prefer, else the fastest, |
| | where its interval says that it solves little less |

Who is shown to solve less than half of the items of a task is not recommended for production. Who is chosen and has a
perplexity that is shown to be worse than that of the source weights, by more than 1 %, has that said in the same
sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from localfoundry.bench import figures
from localfoundry.bench.plan import Condition
from localfoundry.bench.stats import Ratio
from localfoundry.bench.wording import number, range_of
from localfoundry.compare import faithful
from localfoundry.compare.evidence import Evidence, Figures, Panel, short
from localfoundry.quality.score import Difference, Score
from localfoundry.units import format_bytes

MAY_LOSE = 0.2  # of the items: the fastest is taken only where it is shown to solve at most so much less
USABLE = 0.5  # of the items of a task: who is shown to solve fewer is no choice for production
METRICS = ("latency_s", "ttft_s", "decode_tps", "throughput_tps")
NAMES = {
    "latency_s": "answer time", "ttft_s": "TTFT", "decode_tps": "decode", "throughput_tps": "throughput",
}  # fmt: skip

Purpose = Literal["development", "production"]


class Pair(msgspec.Struct, frozen=True):
    """`a` / `b` in one metric under one condition of a run."""

    a: str
    b: str
    metric: str
    condition: str
    ratio: Ratio
    run: str


class Cite(msgspec.Struct, frozen=True):
    """A figure that a choice rests on. `unit` stands behind it in words; `low` and `high` are its 95 % interval."""

    label: str
    figure: str
    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    run: str

    @property
    def words(self) -> str:
        percent = self.unit == "%"
        value, low, high = (
            None if one is None else f"{one:.0%}" if percent else number(one)
            for one in (self.value, self.low, self.high)
        )
        unit = "" if percent or not self.unit else f" {self.unit}"
        interval = f", 95 % {low} to {high}{unit}" if low is not None else ""
        return f"{self.label}: {self.figure} {value}{unit}{interval}, n = {self.n}, run {self.run}"


class Choice(msgspec.Struct, frozen=True):
    """`label` None: nobody is shown to be the one; `because` are sentences, the first says the choice."""

    purpose: Purpose
    label: str | None
    because: tuple[str, ...]
    cites: tuple[Cite, ...] = ()


class Judged(msgspec.Struct, frozen=True):
    """Of one panel; `run` None where only items were answered."""

    run: str | None
    condition: Condition | None
    pairs: tuple[Pair, ...]
    development: Choice
    production: Choice


def judge(evidence: Evidence) -> list[Judged]:
    """One for each run of a bench; where there is none, one for the items alone."""
    if not evidence.panels:
        return [Judged(None, None, (), _unmeasured(), _told(evidence, _production(evidence, [])))]
    found = []
    for panel in evidence.panels:
        pairs = tuple(_pairs(panel))
        condition = main_condition(panel)
        ranked = [f for f in panel.under(condition) if f.measured] if condition else []
        here = [p for p in pairs if condition is not None and p.condition == condition.key]
        found.append(
            Judged(
                panel.run.id,
                condition,
                pairs,
                _told(evidence, _development(panel, ranked, here)),
                _told(evidence, _production(evidence, ranked, panel)),
            )
        )
    return found


def _told(evidence: Evidence, choice: Choice) -> Choice:
    """With the fidelity of who was chosen as evidence, and a warning in the first sentence where it is due."""
    one = evidence.fidelity.get(choice.label or "")
    perplexity = one.fidelity.perplexity if one is not None else None
    if one is None or perplexity is None or choice.label is None:
        return choice
    cite = Cite(choice.label, "perplexity over the source weights'", perplexity.value, perplexity.low, perplexity.high,
                one.fidelity.positions, "times", one.run[-6:].lower())  # fmt: skip
    because, warning = choice.because, faithful.warning(choice.label, evidence.fidelity)
    if warning:
        because = (f"{because[0].rstrip('.')}, {warning}.", *because[1:])
    return msgspec.structs.replace(choice, because=because, cites=(*choice.cites, cite))


def main_condition(panel: Panel) -> Condition | None:
    """What choices rest on: the first one at one stream, else the first; None where no candidate was measured."""
    return next((c for c in panel.conditions if c.load == "c=1"), next(iter(panel.conditions), None))


def reference(measured: Sequence[Figures]) -> Figures | None:
    """The fastest, which the others are set against."""
    return min(measured, key=lambda f: f.latency_s, default=None)


def _pairs(panel: Panel) -> Iterable[Pair]:
    """Each candidate against the fastest, under each condition. Not everyone against everyone: ten would be 45 pairs
    a metric, of which some would differ by chance."""
    for condition in panel.conditions:
        measured = [f for f in panel.under(condition) if f.measured]
        best = reference(measured)
        for one in measured:
            if best is None or one is best:
                continue
            for metric in METRICS:
                ratio = _ratio(one, best, metric, panel)
                if ratio is not None:
                    yield Pair(one.label, best.label, metric, condition.key, ratio, short(panel.run))


def _ratio(a: Figures, b: Figures, metric: str, panel: Panel) -> Ratio | None:
    if metric != "throughput_tps":
        return figures.ratio(a.cell, b.cell, metric)
    # At one stream it says the same as the answer time, with fewer values.
    return None if a.cell.alone else figures.throughput_ratio(a.cell, b.cell, panel.measurement.plan)


def _unmeasured() -> Choice:
    return Choice("development", None, ("none: no speed was measured.",))


def latency_cite(one: Figures, panel: Panel) -> Cite:
    summary = one.metrics["latency_s"]
    interval = summary.median_interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Cite(one.label, "median answer time", summary.median, low, high, summary.n, "s", short(panel.run))


def slower(pair: Pair) -> bool:
    """Whether `a` is shown to take longer than `b`; of decode and throughput, to be lower."""
    ratio = pair.ratio
    if ratio.verdict != "difference shown" or ratio.interval is None:
        return False
    return ratio.interval.low > 1 if pair.metric in ("latency_s", "ttft_s") else ratio.interval.high < 1


def _development(panel: Panel, ranked: Sequence[Figures], pairs: Sequence[Pair]) -> Choice:
    best = reference(ranked)
    if best is None:
        return Choice("development", None, ("none: no candidate was measured to the end.",))
    cites = [latency_cite(f, panel) for f in sorted(ranked, key=lambda f: f.latency_s)]
    answer = [p for p in pairs if p.metric == "latency_s"]
    open_ones = [p for p in answer if not slower(p)]
    if len(ranked) == 1:
        alone = len(panel.labels) > 1
        said = f"{best.label}: the only one that was measured to the end." if alone else "none: there is one candidate."
        return Choice("development", best.label if alone else None, (said,), tuple(cites))
    sentences = tuple(pair_sentence(p) for p in answer)
    if not open_ones:
        first = f"{best.label}: of {len(ranked)} measured it is shown to answer faster than every other."
        return Choice("development", best.label, (first, *sentences, *_lengths(ranked)), tuple(cites))
    tied = [best.label, *(p.a for p in open_ones)]
    first = f"no winner: {_and(tied)} are not shown to differ in the time of an answer."
    return Choice("development", None, (first, *_memory(ranked, tied), *sentences, *_lengths(ranked)), tuple(cites))


def _memory(ranked: Sequence[Figures], tied: Sequence[str]) -> list[str]:
    sizes = {f.label: f.peak_bytes for f in ranked if f.label in tied and f.peak_bytes}
    if len(sizes) < len(tied):
        return []
    least = min(sizes, key=lambda label: sizes[label])
    most = max(sizes, key=lambda label: sizes[label])
    if sizes[most] < 1.05 * sizes[least]:  # noise of an allocator
        return []
    return [
        f"Of these {least} takes the least memory, {format_bytes(sizes[least])} against up to "
        f"{format_bytes(sizes[most])}."
    ]


def _lengths(ranked: Sequence[Figures]) -> list[str]:
    lengths = {s.completion_tokens for f in ranked for s in f.cell.good if s.completion_tokens is not None}
    if len(lengths) < 2:
        return []
    return [f"Answers had {min(lengths)} to {max(lengths)} tokens, which their times include."]


def pair_sentence(pair: Pair) -> str:
    """What may be said of two, with the figure."""
    ratio, name = pair.ratio, NAMES[pair.metric]
    said = f"ratio {ratio.value:.2f}{range_of(ratio.interval)}, n = {ratio.n}"
    if ratio.verdict == "not enough runs":
        return f"{pair.a} against {pair.b} in {name}: not enough rounds to tell."
    if ratio.verdict == "too noisy to conclude":
        return f"{pair.a} against {pair.b} in {name}: too noisy to conclude ({said}, CV {ratio.cv or 0:.0%})."
    if ratio.verdict == "no difference shown":
        return f"{pair.a} against {pair.b} in {name}: no difference shown ({said})."
    return f"{pair.a} has {ratio.value:.2f} times the {name} of {pair.b} ({said})."


def _production(evidence: Evidence, ranked: Sequence[Figures], panel: Panel | None = None) -> Choice:
    """Of those that were measured to the end, or where no speed was measured of all that answered."""
    labels = [f.label for f in ranked] if panel is not None else evidence.labels
    scores = [s for s in evidence.scores if s.model in labels]
    run = ", ".join(short(one) for one in evidence.item_runs)
    if not scores:
        said = "none: what the answers are worth was not measured."
        return Choice("production", None, (said, *_preferred_words(evidence, labels)))
    cites = tuple(
        Cite(s.model, f"solved of {s.suite} ({s.language})", s.accuracy, s.interval.low, s.interval.high, s.n, "%", run)
        for s in scores
    )
    able = [label for label in labels if any(s.model == label for s in scores) and not _weak(label, scores)]
    if not able:
        first = f"none: each of them is shown to solve less than {USABLE:.0%} of the items of a task."
        return Choice("production", None, (first,), cites)
    shown = [d for d in evidence.differences if d.shown and d.a in able and d.b in able]
    worse = {d.b if d.difference > 0 else d.a for d in shown}
    left = [label for label in able if label not in worse]
    told = tuple(_difference_words(d) for d in evidence.differences if d.a in able and d.b in able)
    choice, why = _among(left, able, evidence, ranked)
    speeds = tuple(latency_cite(f, panel) for f in ranked if panel is not None and f.label in left)
    return Choice("production", choice, (why, *told, *_preferred_words(evidence, labels)), cites + speeds)


def _weak(label: str, scores: Sequence[Score]) -> bool:
    return any(s.interval.high < USABLE for s in scores if s.model == label)


def _among(
    left: Sequence[str], able: Sequence[str], evidence: Evidence, ranked: Sequence[Figures]
) -> tuple[str | None, str]:
    """The one of those `left`, if there is one, and the sentence that says why."""
    if not left:
        return None, "no winner: each is shown to be worse than another in some task; choose by the task you have."
    if len(left) == 1:
        if len(able) > 1:
            return left[0], f"{left[0]}: the others are shown to solve fewer items."
        return left[0], f"{left[0]}: the only one that was measured to the end and not shown to solve too little."
    same = f"{_and(left)} are not shown to differ in items solved"
    voted = next((v.ranking for v in evidence.votes if v.criterion == "accuracy"), None)
    winner = voted.winner if voted else None
    if voted and winner in left and set(left) <= {strength.model for strength in voted.strengths}:
        return winner, f"{winner}: {same}, and people prefer its answers."
    mine = [f for f in ranked if f.label in left]
    best = reference(mine)
    if best is None or len(mine) < len(left) or not all(_slower_than(best, f) for f in mine if f is not best):
        return None, f"no winner: {same}, nor is one shown to be the fastest."
    loss = max((_possible_loss(best.label, d) for d in evidence.differences if d.a in left and d.b in left), default=1)
    if loss > MAY_LOSE:
        return None, (
            f"no winner: {same}, but {best.label}, the fastest, may solve up to {loss:.0%} fewer: "
            "more items would tell."
        )
    return best.label, f"{best.label}: {same} (by {loss:.0%} at most), and it is shown to be the fastest."


def _possible_loss(label: str, d: Difference) -> float:
    """The end of the interval at which `label` solves least, as a share of the items; 0 where it is not compared."""
    if label == d.a:
        return -d.interval.low
    return d.interval.high if label == d.b else 0.0


def _slower_than(best: Figures, other: Figures) -> bool:
    ratio = figures.ratio(other.cell, best.cell)
    return ratio is not None and slower(Pair(other.label, best.label, "latency_s", "", ratio, ""))


def _difference_words(d: Difference) -> str:
    place = f"{d.suite} ({d.language})"
    size = (
        f"{d.difference:+.0%}, 95 % {d.interval.low:+.0%} to {d.interval.high:+.0%}, n = {d.n}, p = {d.adjusted_p:.2g}"
    )
    if not d.shown:
        return f"{place}: {d.a} and {d.b}: no difference shown ({size})."
    better, worse = (d.a, d.b) if d.difference > 0 else (d.b, d.a)
    return f"{place}: {better} solves more than {worse} ({d.a} less {d.b}: {size})."


def _preferred_words(evidence: Evidence, labels: Sequence[str]) -> list[str]:
    found = []
    for vote in evidence.votes:
        models = [s.model for s in vote.ranking.strengths if s.model in labels]
        if len(models) > 1:
            who = vote.ranking.winner
            said = f"prefer {who}" if who else f"show no preference among {_and(models)}"
            found.append(f"In {vote.criterion} people {said} ({vote.ranking.votes} votes).")
    return found


def _and(labels: Sequence[str]) -> str:
    return f"{', '.join(labels[:-1])} and {labels[-1]}" if len(labels) > 1 else "".join(labels)

"""A measurement in words and documents: table cells, a JSON document with the raw samples, and a comparison to act on.

Values in, text and plain data out; printing is the command line's. Every figure goes out with its definition, its
interval and the number of runs it rests on. Trade-off: the comparison's speed words (Fast, Medium, Slower) rank what
was measured together on this machine and mean nothing next to another run's.
"""

from __future__ import annotations

import os
import platform
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from localfoundry import __version__
from localfoundry.bench import stats
from localfoundry.bench.run import Measurement, Outcome, Sample
from localfoundry.bench.stats import Interval, Ratio, Summary

DEFINITIONS = {
    "load": "from asking for the model to its readiness, s",
    "TTFT": "first token of any kind - request sent, s",
    "TTFA": "first token of the answer, after reasoning - request sent, s",
    "ITL": "(time of last token - time of first token) / (n - 1), n from the server's usage, s per token",
    "decode": "1 / ITL, tokens per second of one stream",
    "prefill": "prompt tokens not cached / TTFT, tokens per second; too low by the queue and the first token",
    "latency": "end of the stream - request sent, s; latency_p95 is the nearest rank: of under 20 runs, the slowest",
    "throughput": "all output tokens / time spent on the requests, at one stream, tokens per second",
    "interval": "95 %: bootstrap for medians and paired ratios, Student's t for means of runs",
    "CV": "standard deviation / mean; over 20 % is too noisy to conclude",
    "ratio": "paired by round; no difference shown where its interval holds 1",
}

# Absolute classes, used where only one model was measured and there is nothing to be faster than. Seconds for a whole
# answer; chosen so that the tutorial's 2, 3 and 5 seconds get the words that it gives them.
_FAST_S = 2.5
_MEDIUM_S = 4.0

_METRICS: tuple[tuple[str, Callable[[Sample], float | None]], ...] = (
    ("ttft_s", lambda s: s.ttft_s),
    ("ttfa_s", lambda s: s.ttfa_s),
    ("itl_s", lambda s: s.itl_s),
    ("decode_tps", lambda s: s.decode_tps),
    ("prefill_tps", lambda s: s.prefill_tps),
    ("latency_s", lambda s: s.latency_s),
    ("engine_prefill_tps", lambda s: s.engine_prefill_tps),
    ("engine_decode_tps", lambda s: s.engine_decode_tps),
)
_COMPARED = ("latency_s", "ttft_s", "decode_tps")


class ModelFacts(msgspec.Struct, frozen=True):
    """What a model was measured as, told by whoever loaded it; the endpoint does not know."""

    engine: str | None = None
    quantization: str | None = None
    file_sha256: str | None = None


class Machine(msgspec.Struct, frozen=True):
    """Where the figures were taken."""

    cpu: str
    cores: int | None
    threads: int | None
    memory_bytes: int
    system: str


class Comparison(msgspec.Struct, frozen=True):
    """`a` against `b` in one metric, paired by round."""

    a: str
    b: str
    metric: str
    ratio: Ratio


class Table(msgspec.Struct, frozen=True):
    """Cells as text; units stand in the column names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def machine() -> Machine:
    """This machine: processor name, cores, memory, system."""
    import psutil

    return Machine(
        cpu=_cpu_name(),
        cores=psutil.cpu_count(logical=False),
        threads=os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        system=platform.platform(),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no such file outside Linux
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def metrics(outcome: Outcome) -> dict[str, Summary]:
    """Every metric of a candidate that was measured at least once; failed requests are left out."""
    found = {}
    for name, read in _METRICS:
        summary = stats.summarize([value for sample in outcome.good if (value := read(sample)) is not None])
        if summary is not None:
            found[name] = summary
    return found


def throughput_tps(outcome: Outcome) -> float | None:
    """All output tokens / time spent on the requests; None where the server did not count its tokens."""
    counted = [(s.completion_tokens, s.latency_s) for s in outcome.good if s.completion_tokens is not None]
    spent = sum(latency for _, latency in counted)
    return sum(tokens for tokens, _ in counted) / spent if spent > 0 else None


def compare(a: Outcome, b: Outcome, metric: str = "latency_s") -> Ratio | None:
    """`a` / `b`, paired by round; None where no round has the metric for both."""
    read = dict(_METRICS)[metric]
    left, right = ({s.round: value for s in o.good if (value := read(s))} for o in (a, b))
    common = sorted(left.keys() & right.keys())
    return stats.paired_ratio([left[r] for r in common], [right[r] for r in common]) if common else None


def comparisons(result: Measurement) -> list[Comparison]:
    """Every pair of candidates in answer time, first token and decode speed."""
    found = []
    for index, a in enumerate(result.outcomes):
        for b in result.outcomes[index + 1 :]:
            for metric in _COMPARED:
                ratio = compare(a, b, metric)
                if ratio is not None:
                    found.append(Comparison(a.candidate.label, b.candidate.label, metric, ratio))
    return found


def table(result: Measurement) -> Table:
    """One row a candidate: medians with their 95 % intervals. TTFA has a column only where a model reasoned first."""
    reasoned = any(s.ttfa_s != s.ttft_s for o in result.outcomes for s in o.good)
    columns = ["Model", "Load s", "TTFT ms", "TTFA ms", "Decode tok/s", "Prefill tok/s", "Answer s", "Throughput tok/s",
               "Prompt tok", "Cached tok", "Output tok", "CV max", "Runs", "Note"]  # fmt: skip
    rows = [_row(outcome) for outcome in result.outcomes]
    if not reasoned:
        at = columns.index("TTFA ms")
        del columns[at]
        for row in rows:
            del row[at]
    return Table(tuple(columns), tuple(tuple(row) for row in rows))


def _row(outcome: Outcome) -> list[str]:
    found = metrics(outcome)
    throughput = throughput_tps(outcome)
    shown = [summary for name, summary in found.items() if name in _COMPARED and summary.cv is not None]
    noisy = [name for name, summary in found.items() if name in _COMPARED and summary.too_noisy]
    note = outcome.error or ("too noisy to conclude: " + ", ".join(noisy) if noisy else "")
    return [
        outcome.candidate.label,
        "–" if outcome.load_s is None else _number(outcome.load_s),
        _cell(found.get("ttft_s"), 1000),
        _cell(found.get("ttfa_s"), 1000),
        _cell(found.get("decode_tps")),
        _cell(found.get("prefill_tps")),
        _cell(found.get("latency_s")),
        "–" if throughput is None else _number(throughput),
        _count(outcome, lambda s: s.prompt_tokens),
        _count(outcome, lambda s: s.cached_tokens),
        _count(outcome, lambda s: s.completion_tokens),
        f"{max(s.cv or 0 for s in shown):.0%}" if shown else "–",
        str(len(outcome.good)),
        note,
    ]


def course_rows(result: Measurement) -> list[dict[str, object]]:
    """The field names that results of the course's own tool have, so that both can stand in one file."""
    rows = []
    for outcome in result.outcomes:
        found = metrics(outcome)
        latencies = [s.latency_s for s in outcome.good]
        speeds = [s.completion_tokens / s.latency_s for s in outcome.good if s.completion_tokens and s.latency_s]
        row: dict[str, object] = {
            "alias": outcome.candidate.label,
            "rounds": len(latencies),
            "latency_avg": found["latency_s"].mean if latencies else None,
            "latency_p95": stats.percentile(latencies, 0.95) if latencies else None,
            "tokens_per_sec_avg": sum(speeds) / len(speeds) if speeds else None,
            "first_token_latency_avg": found["ttft_s"].mean if "ttft_s" in found else None,
        }
        rows.append(row | ({"error": outcome.error} if outcome.error else {}))
    return rows


def document(result: Measurement, facts: Mapping[str, ModelFacts] | None = None) -> dict[str, object]:
    """Everything, as plain data for JSON: raw samples, figures, machine, versions, settings, definitions.

    `facts` is keyed by model name. `results` holds the rows of `course_rows`.
    """
    known = facts or {}
    settings = msgspec.to_builtins(result)
    del settings["outcomes"]
    return {
        "definitions": DEFINITIONS,
        "machine": msgspec.to_builtins(machine()),
        "versions": {"localfoundry": __version__, "python": platform.python_version()},
        "settings": settings | {"concurrency": 1},
        "results": course_rows(result),
        "candidates": [_candidate(outcome, known.get(outcome.candidate.model)) for outcome in result.outcomes],
        "comparisons": msgspec.to_builtins(comparisons(result)),
    }


def _candidate(outcome: Outcome, facts: ModelFacts | None) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(outcome.candidate)
    return plain | {
        **msgspec.to_builtins(facts or ModelFacts()),
        "load_s": outcome.load_s,
        "error": outcome.error,
        "throughput_tps": throughput_tps(outcome),
        "metrics": msgspec.to_builtins(metrics(outcome)),
        "samples": [msgspec.to_builtins(sample) for sample in outcome.samples],
    }


def comparison_block(result: Measurement, descriptions: Mapping[str, str] | None = None) -> str:
    """The comparison of the course: a line a model with a speed word and what it is good for, then a recommendation.

    A model that failed on the way is neither ranked nor recommended, however fast it was until then.
    `descriptions` is keyed by label or model and holds what stands in the line as it is: "good for general chat".
    """
    described = _described(result.outcomes, descriptions or {})
    measured = [outcome for outcome in result.outcomes if outcome.good and not outcome.error]
    words = _speed_words(measured)
    labels = [outcome.candidate.label for outcome in result.outcomes]
    width = max(18, *(len(label) + 1 for label in labels))
    lines = ["Model Comparison Results:", "=" * 24]
    for outcome in result.outcomes:
        label = outcome.candidate.label
        text = f"failed: {outcome.error}" if outcome.error else "not measured"
        if label in words:
            text = f"{words[label]} (~{_about(_latency(outcome))}s)"
            text += f", {described[label]}" if label in described else ""
        lines.append(f"{label + ':':<{width}} {text}")
    advice = " ".join(_recommendation(measured, described)) if measured else "none: no model was measured to the end."
    return "\n".join([*lines, "", *textwrap.wrap(f"Recommendation: {advice}", 79, break_on_hyphens=False)])


def _described(outcomes: Sequence[Outcome], descriptions: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for candidate in (outcome.candidate for outcome in outcomes):
        text = descriptions.get(candidate.label) or descriptions.get(candidate.model)
        if text:
            found[candidate.label] = text
    return found


def _speed_words(measured: Sequence[Outcome]) -> dict[str, str]:
    """Fast, Medium or Slower by the median time of a whole answer.

    Several: the span from fastest to slowest is cut in three equal parts on a logarithmic scale, as ratios are what a
    person feels; who cannot be told from the fastest shares its word. One alone: the absolute classes above.
    """
    if len(measured) == 1:
        latency = _latency(measured[0])
        return {measured[0].candidate.label: _word(latency, _FAST_S, _MEDIUM_S)}
    words = {}
    if measured:
        fastest, slowest = min(measured, key=_latency), max(measured, key=_latency)
        third = (_latency(slowest) / _latency(fastest)) ** (1 / 3)
        for outcome in measured:
            ratio = compare(outcome, fastest)
            same = outcome is fastest or (ratio is not None and ratio.verdict == "no difference shown")
            limit = _latency(fastest) * third
            words[outcome.candidate.label] = "Fast" if same else _word(_latency(outcome), limit, limit * third)
    return words


def _word(latency_s: float, fast_s: float, medium_s: float) -> str:
    if latency_s <= fast_s:
        return "Fast"
    return "Medium" if latency_s <= medium_s else "Slower"


def _recommendation(measured: Sequence[Outcome], described: Mapping[str, str]) -> list[str]:
    """Sentences, each with what it rests on."""
    fastest = min(measured, key=_latency)
    name = fastest.candidate.label
    latency = metrics(fastest)["latency_s"]
    evidence = f"median {_number(latency.median)} s for an answer{_range(latency.median_interval, ' s')}"
    rounds = f"{latency.n} round{'s' if latency.n > 1 else ''}"
    if len(measured) == 1:
        said = [f"{name} alone was measured: {evidence}, {rounds}. Measure a second model to compare."]
        return [*said, "Quality was not measured here."]
    said = [f"Start with {name} for development: the shortest of the {len(measured)} measured ({evidence}, {rounds})."]
    for outcome in measured:
        if outcome is not fastest:
            said.append(_against(outcome, fastest))
    lengths = sorted({s.completion_tokens for o in measured for s in o.good if s.completion_tokens is not None})
    if len(lengths) > 1:
        said.append(f"Answers had {lengths[0]} to {lengths[-1]} tokens, which their times include.")
    thinkers = [o.candidate.label for o in measured if "reason" in described.get(o.candidate.label, "").lower()]
    if thinkers and name not in thinkers:
        said.append(f"Try {thinkers[0]} for production reasoning tasks: that is its description, not a measurement.")
    return [*said, "Quality was not measured here: compare the answers before you choose."]


def _against(other: Outcome, fastest: Outcome) -> str:
    label, name = other.candidate.label, fastest.candidate.label
    ratio = compare(other, fastest)
    if ratio is None or ratio.verdict == "not enough runs":
        return f"{label} against {name}: not enough rounds to tell."
    figures = f"ratio {ratio.value:.2f}{_range(ratio.interval)}"
    if ratio.verdict == "no difference shown":
        return f"{label} against {name}: no difference shown ({figures})."
    if ratio.verdict == "too noisy to conclude":
        return f"{label} against {name}: too noisy to conclude ({figures}, CV {ratio.cv or 0:.0%})."
    return f"{label} takes {ratio.value:.2f} times as long{_range(ratio.interval)}."


def _latency(outcome: Outcome) -> float:
    return statistics.median(sample.latency_s for sample in outcome.good)


def _range(interval: Interval | None, unit: str = "") -> str:
    return f", 95 % {_number(interval.low)} to {_number(interval.high)}{unit}" if interval else ""


def _cell(summary: Summary | None, scale: float = 1) -> str:
    if summary is None:
        return "–"
    interval = summary.median_interval
    spread = f" ({_number(interval.low * scale)}–{_number(interval.high * scale)})" if interval else ""
    return _number(summary.median * scale) + spread


def _count(outcome: Outcome, read: Callable[[Sample], int | None]) -> str:
    summary = stats.summarize([float(value) for s in outcome.good if (value := read(s)) is not None])
    return f"{summary.median:g}" if summary else "–"


def _number(value: float) -> str:
    """About three digits: 0.04, 4.21, 42.1, 421."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _about(seconds: float) -> str:
    """About two digits, as after a tilde: 0.42, 2.1, 12, 120."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"

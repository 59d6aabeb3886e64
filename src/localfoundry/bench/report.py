"""A measurement as a table and as a JSON document with the raw samples.

Values in, text and plain data out; printing is the command line's. Every figure goes out with its definition, its
interval and the number of requests it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from localfoundry.bench import figures, stats
from localfoundry.bench.figures import COMPARED, Cell
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.plan import Plan
from localfoundry.bench.request import Sample
from localfoundry.bench.stats import Ratio
from localfoundry.bench.wording import NONE, mean_spread, number, spread
from localfoundry.results import place
from localfoundry.units import format_bytes

DEFINITIONS = {
    "load": "from asking for the model to its readiness, s",
    "TTFT": "first token of any kind - request sent, s; in an open loop - request due",
    "TTFA": "first token of the answer, after reasoning - request sent, s",
    "ITL": "(time of last token - time of first token) / (n - 1), n from the server's usage, s per token",
    "decode": "1 / ITL, tokens per second of one stream",
    "prefill": "prompt tokens not cached / TTFT, tokens per second; too low by the queue and the first token",
    "latency": "end of the stream - request sent, s; latency_p95 is the nearest rank: of under 20 runs, the slowest",
    "throughput": "all output tokens / wall time of a round, tokens per second; at one stream / time spent asking",
    "interval": "95 %: bootstrap for medians and paired ratios, Student's t for means of runs",
    "CV": "standard deviation / mean; over 20 % is too noisy to conclude",
    "ratio": "paired by prompt, at a load by round; no difference shown where its interval holds 1",
}
# Printed where the figure is.
_DEFINITIONS_OF = {
    "goodput": "requests within the bounds / all requests, failed ones included",
    "cost": "(prompt tokens x price in + output tokens x price out) / 1,000,000; cached tokens at the full price",
    "energy": "joules of the machine's own counter while a request ran, less idle, shared by those that ran together",
    "memory": "largest private memory of the worker seen between requests",
}


class ModelFacts(msgspec.Struct, frozen=True):
    """What a model was measured as, told by whoever loaded it; the endpoint does not know."""

    engine: str | None = None
    quantization: str | None = None
    file_sha256: str | None = None
    model_id: str | None = None
    engine_version: str | None = None
    format: str | None = None
    context: int | None = None
    threads: int | None = None


class Comparison(msgspec.Struct, frozen=True):
    """`a` against `b` in one metric under one condition."""

    a: str
    b: str
    metric: str
    ratio: Ratio
    scenario: str = "chat"
    language: str = "en"
    load: str = "c=1"


class Table(msgspec.Struct, frozen=True):
    """Cells as text; units stand in the column names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def throughput_tps(cell: Cell) -> float | None:
    """All output tokens / time spent on the requests; None where the server did not count its tokens."""
    counted = [(s.completion_tokens, s.latency_s) for s in cell.good if s.completion_tokens is not None]
    spent = sum(latency for _, latency in counted)
    return sum(tokens for tokens, _ in counted) / spent if spent > 0 else None


def comparisons(result: Measurement) -> list[Comparison]:
    """Every pair of candidates under the same condition in answer time, first token and decode speed."""
    found = []
    every = figures.cells(result.plan, result.outcomes)
    for index, a in enumerate(every):
        for b in (cell for cell in every[index + 1 :] if cell.condition == a.condition):
            for name in COMPARED:
                ratio = figures.ratio(a, b, name)
                if ratio is not None:
                    where = a.condition
                    found.append(Comparison(a.label, b.label, name, ratio, where.scenario, where.language, where.load))
    return found


def definitions(result: Measurement) -> dict[str, str]:
    """Of the figures that this measurement has."""
    every = figures.cells(result.plan, result.outcomes)
    has = {
        "goodput": result.plan.slo is not None,
        "cost": any(figures.costs(cell) for cell in every),
        "energy": any(figures.metric(cell, "energy_j") for cell in every),
        "memory": any(outcome.peak_bytes for outcome in result.outcomes),
    }
    return DEFINITIONS | {name: words for name, words in _DEFINITIONS_OF.items() if has[name]}


_Column = tuple[str, Callable[[Cell], str]]


def table(result: Measurement) -> Table:
    """One row for each candidate under each condition: medians with their 95 % intervals.

    Columns that would say the same in every row, or nothing, are left out.
    """
    every = figures.cells(result.plan, result.outcomes)
    columns = [column for column in _columns(result, every) if column is not None]
    return Table(tuple(name for name, _ in columns), tuple(tuple(say(cell) for _, say in columns) for cell in every))


def _columns(result: Measurement, every: list[Cell]) -> list[_Column | None]:
    plan = result.plan
    conditions = plan.conditions()
    reasoned = any(s.ttfa_s != s.ttft_s for cell in every for s in cell.good)
    peaks = {outcome.candidate.label: outcome.peak_bytes for outcome in result.outcomes}

    def own(name: str, scale: float = 1) -> Callable[[Cell], str]:
        return lambda cell: spread(figures.metric(cell, name), scale)

    return [
        ("Model", lambda cell: cell.label),
        _if(len({(c.scenario, c.language) for c in conditions}) > 1, "Scenario", _work),
        _if(len({c.load for c in conditions}) > 1 or conditions[0].load != "c=1", "Load", lambda c: c.condition.load),
        ("Load s", lambda cell: NONE if cell.load_s is None else number(cell.load_s)),
        ("TTFT ms", own("ttft_s", 1000)),
        _if(reasoned, "TTFA ms", own("ttfa_s", 1000)),
        ("Decode tok/s", own("decode_tps")),
        ("Prefill tok/s", own("prefill_tps")),
        ("Answer s", own("latency_s")),
        ("Throughput tok/s", lambda cell: _throughput(cell, plan)),
        _if(plan.slo is not None, "Goodput", lambda cell: _percent(figures.goodput(cell, plan))),
        _if(any(figures.costs(cell) for cell in every), f"Cost/1,000 {plan.currency}".strip(), _cost),
        _if(any(figures.metric(cell, "energy_j") for cell in every), "Energy J", own("energy_j")),
        _if(any(peaks.values()), "Memory", lambda cell: format_bytes(peaks[cell.label]) if peaks[cell.label] else NONE),
        ("Prompt tok", lambda cell: _count(cell, lambda s: s.prompt_tokens)),
        ("Cached tok", lambda cell: _count(cell, lambda s: s.cached_tokens)),
        ("Output tok", lambda cell: _count(cell, lambda s: s.completion_tokens)),
        ("CV max", _cv),
        ("Runs", lambda cell: str(len(cell.good))),
        _if(any(cell.failures for cell in every), "Failed", lambda cell: str(cell.failures)),
        ("Note", _note),
    ]


def _if(wanted: bool, name: str, say: Callable[[Cell], str]) -> _Column | None:
    return (name, say) if wanted else None


def _work(cell: Cell) -> str:
    language = cell.condition.language
    return cell.condition.scenario + (f" {language}" if language not in ("en", "own") else "")


def _throughput(cell: Cell, plan: Plan) -> str:
    if cell.alone:
        value = throughput_tps(cell)
        return NONE if value is None else number(value)
    return mean_spread(figures.throughput(cell, plan))


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"


def _cost(cell: Cell) -> str:
    found = figures.costs(cell)
    return NONE if found is None else number(found.mean * 1000)


def _cv(cell: Cell) -> str:
    known = [summary.cv for name in COMPARED if (summary := figures.metric(cell, name)) and summary.cv is not None]
    return f"{max(known):.0%}" if known else NONE


def _note(cell: Cell) -> str:
    noisy = [name for name in figures.METRICS if name in COMPARED and _too_noisy(cell, name)]
    notes = [
        cell.error or "",
        "too noisy to conclude: " + ", ".join(noisy) if noisy and not cell.error else "",
        cell.saturated or "",
        f"{cell.late} sent late" if cell.late else "",
        "after the others, not in turns: no memory beside them" if cell.apart else "",
    ]
    return "; ".join(note for note in notes if note)


def _too_noisy(cell: Cell, name: str) -> bool:
    summary = figures.metric(cell, name)
    return summary is not None and summary.too_noisy


def _count(cell: Cell, read: Callable[[Sample], int | None]) -> str:
    summary = stats.summarize([float(value) for s in cell.good if (value := read(s)) is not None])
    return f"{summary.median:g}" if summary else NONE


def course_rows(result: Measurement) -> list[dict[str, object]]:
    """The field names that results of the course's own tool have, so that both can stand in one file."""
    rows = []
    for cell in figures.cells(result.plan, result.outcomes):
        latency, ttft = figures.metric(cell, "latency_s"), figures.metric(cell, "ttft_s")
        latencies = [s.latency_s for s in cell.good]
        speeds = [s.completion_tokens / s.latency_s for s in cell.good if s.completion_tokens and s.latency_s]
        row: dict[str, object] = {
            "alias": cell.label,
            "rounds": len(latencies),
            "latency_avg": latency.mean if latency else None,
            "latency_p95": stats.percentile(latencies, 0.95) if latencies else None,
            "tokens_per_sec_avg": sum(speeds) / len(speeds) if speeds else None,
            "first_token_latency_avg": ttft.mean if ttft else None,
            "scenario": cell.condition.scenario,
            "language": cell.condition.language,
            "load": cell.condition.load,
        }
        rows.append(row | ({"error": cell.error} if cell.error else {}))
    return rows


def document(
    result: Measurement, facts: Mapping[str, ModelFacts] | None = None, run: str | None = None
) -> dict[str, object]:
    """Everything, as plain data for JSON: raw samples, figures, machine, versions, settings, definitions.

    `facts` is keyed by model name, `run` the id under which it is kept. `results` holds the rows of `course_rows`.
    """
    known = facts or {}
    every = figures.cells(result.plan, result.outcomes)
    settings: dict[str, object] = msgspec.to_builtins(result.plan)
    told = {"started_at": result.started_at, "wall_s": result.wall_s, "interrupted": result.interrupted}
    return {
        "run": run,
        "definitions": definitions(result),
        "machine": place.machine_facts(),
        "versions": place.versions(),
        "settings": settings | told,
        "energy": {"source": result.energy, "idle_w": result.idle_w},
        "results": course_rows(result),
        "candidates": [
            _candidate(outcome, [c for c in every if c.label == outcome.candidate.label], result.plan, known)
            for outcome in result.outcomes
        ],
        "comparisons": msgspec.to_builtins(comparisons(result)),
    }


def _candidate(outcome: Outcome, cells: list[Cell], plan: Plan, facts: Mapping[str, ModelFacts]) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(outcome.candidate)
    first = cells[0] if cells else None
    return plain | {
        **msgspec.to_builtins(facts.get(outcome.candidate.model, ModelFacts())),
        "load_s": outcome.load_s,
        "error": outcome.error,
        "peak_bytes": outcome.peak_bytes,
        "memory": outcome.memory,
        "throughput_tps": throughput_tps(first) if first else None,
        "metrics": msgspec.to_builtins(figures.metrics(first)) if first else {},
        "conditions": [condition(cell, plan) for cell in cells],
        "samples": [msgspec.to_builtins(sample) for sample in outcome.samples],
    }


def condition(cell: Cell, plan: Plan) -> dict[str, object]:
    """The figures of one cell as plain data."""
    found: dict[str, object] = msgspec.to_builtins(
        {
            "metrics": figures.metrics(cell),
            "throughput": figures.throughput(cell, plan),
            "cost": figures.costs(cell),
        }
    )
    where = cell.condition
    return {
        "scenario": where.scenario,
        "language": where.language,
        "load": where.load,
        **found,
        "goodput": figures.goodput(cell, plan),
        "goodput_rps": figures.goodput_rps(cell, plan),
        "requests": len(cell.samples),
        "failed": cell.failures,
        "late": cell.late,
        "error": cell.error,
        "saturated": cell.saturated,
    }

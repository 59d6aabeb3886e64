"""The comparison as tables of text, the same for the terminal, Markdown and the page.

Every table has a name and says in its columns which unit stands in them. Columns that say nothing are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from localfoundry.bench.stats import Summary
from localfoundry.bench.wording import NONE, mean_spread, number, spread
from localfoundry.compare import quants
from localfoundry.compare.cliff import is_loss
from localfoundry.compare.evidence import Evidence, Figures, Panel, short
from localfoundry.compare.faithful import figure, percent, verdict
from localfoundry.compare.verdict import NAMES, Judged, Pair, reference
from localfoundry.quality import report as quality
from localfoundry.results.evidence import Accuracy
from localfoundry.results.outliers import machine_words
from localfoundry.units import format_bytes


class Table(msgspec.Struct, frozen=True):
    """Cells as text."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_Column = tuple[str, Callable[[Figures], str]]


def speeds(panel: Panel) -> Table:
    """A row for each candidate under each condition; medians with 95 % intervals. A failed one has its reason."""
    every = panel.figures
    several = len(panel.conditions) > 1 or (panel.conditions and panel.conditions[0].load != "c=1")
    reasoned = any(s.ttfa_s != s.ttft_s for f in every for s in f.cell.good[:50])

    def own(name: str, scale: float = 1) -> Callable[[Figures], str]:
        return lambda f: spread(f.metrics.get(name), scale)

    columns: list[_Column | None] = [
        ("Model", lambda f: f.label),
        ("Under", lambda f: f.condition.key) if several else None,
        ("TTFT ms", own("ttft_s", 1000)),
        ("TTFA ms", own("ttfa_s", 1000)) if reasoned else None,
        ("ITL ms", own("itl_s", 1000)),
        ("Decode tok/s", own("decode_tps")),
        ("Prefill tok/s", own("prefill_tps")),
        ("Answer s", own("latency_s")),
        ("Throughput tok/s", lambda f: mean_spread(f.throughput)),
        ("Energy J", own("energy_j")) if any("energy_j" in f.metrics for f in every) else None,
        ("Cost/1,000", _cost) if any(f.cost for f in every) else None,
        ("Memory", lambda f: format_bytes(f.peak_bytes) if f.peak_bytes else NONE),
        ("Load s", lambda f: NONE if f.cell.load_s is None else number(f.cell.load_s)),
        ("CV max", _cv),
        ("Answers", lambda f: str(len(f.cell.good))),
        ("Failed", lambda f: str(f.cell.failures)) if any(f.cell.failures for f in every) else None,
        ("Note", _note),
    ]
    kept = [column for column in columns if column is not None]
    rows = tuple(tuple(say(f) for _, say in kept) for f in every)
    return _narrowed(Table(f"Speed, run {short(panel.run)}", tuple(name for name, _ in kept), rows))


def _cost(f: Figures) -> str:
    return NONE if f.cost is None else number(f.cost.mean * 1000)


def _cv(f: Figures) -> str:
    known = [s.cv for name in ("latency_s", "ttft_s", "decode_tps") if (s := f.metrics.get(name)) and s.cv is not None]
    return f"{max(known):.0%}" if known else NONE


def _note(f: Figures) -> str:
    noisy = [NAMES[name] for name in ("latency_s", "ttft_s", "decode_tps") if _noisy(f.metrics.get(name))]
    return "; ".join(
        note
        for note in (
            f"failed: {f.cell.error}" if f.cell.error else "",
            f"too noisy to conclude: {', '.join(noisy)}" if noisy and not f.cell.error else "",
            f.cell.saturated or "",
        )
        if note
    )


def _noisy(summary: Summary | None) -> bool:
    return summary is not None and summary.too_noisy


def _narrowed(table: Table) -> Table:
    """Without columns in which no row says anything."""
    said = [i for i, _ in enumerate(table.columns) if i == 0 or any(row[i] not in ("", NONE) for row in table.rows)]
    return Table(
        table.name, tuple(table.columns[i] for i in said), tuple(tuple(row[i] for i in said) for row in table.rows)
    )


def ratios(judged: Judged, panel: Panel) -> Table:
    """Each candidate over the fastest under the same condition."""
    several = len(panel.conditions) > 1
    rows = []
    for condition in panel.conditions:
        mine = [p for p in judged.pairs if p.condition == condition.key]
        best = reference([f for f in panel.under(condition) if f.measured])
        rows += [
            (p.a, best.label if best else p.b, NAMES[p.metric], *((condition.key,) if several else ()), *_ratio(p))
            for p in mine
        ]
    under = ("Under",) if several else ()
    columns = ("Model", "Over", "Metric", *under, "Ratio", "95 %", "Pairs", "What may be said")
    return Table(f"Ratios, run {short(panel.run)}", columns, tuple(rows))


def _ratio(pair: Pair) -> tuple[str, ...]:
    ratio = pair.ratio
    interval = f"{ratio.interval.low:.2f} to {ratio.interval.high:.2f}" if ratio.interval else NONE
    return f"{ratio.value:.2f}", interval, str(ratio.n), ratio.verdict


def solved(evidence: Evidence) -> Table:
    """Items of suites."""
    runs = ", ".join(short(run) for run in evidence.item_runs)
    return _narrowed(Table(f"Quality, run {runs}", quality.COLUMNS, tuple(quality.rows(evidence.scores))))


def fidelity(evidence: Evidence) -> Table:
    """How far each is from its source weights in float32, with 95 % intervals."""
    rows = []
    for label in sorted(evidence.fidelity, key=[*evidence.labels, *evidence.fidelity].index):
        one, row = evidence.fidelity[label], evidence.rows.get(label)
        found = one.fidelity
        rows.append((
            label, (row.quantization if row else None) or "", str(found.positions), figure(found.kl, "{:.4f}"),
            figure(found.top1, "{:.1%}"), percent(found.perplexity) if found.perplexity else NONE,
            figure(found.greedy, "{:.0%}"), verdict(found), one.run[-6:].lower(),
        ))  # fmt: skip
    columns = (
        "Model",
        "Quantization",
        "Positions",
        "KL at least",
        "Top-1",
        "Perplexity",
        "Greedy",
        "Within 1 %",
        "Run",
    )
    return _narrowed(Table("Fidelity to the source weights", columns, tuple(rows)))


def quantized(evidence: Evidence) -> Table:
    """Each quantization of a model over the one with the most bits, by task, in all languages of the task."""
    rows = [
        (
            cliff.family,
            loss.suite,
            f"{cliff.quantization(loss.a)} / {cliff.steps[0].quantization}",
            str(loss.n),
            f"{loss.both + loss.only_a} / {loss.both + loss.only_b}",
            str(loss.only_b),
            str(loss.only_a),
            f"{loss.difference:+.0%}",
            f"{loss.interval.low:+.0%} to {loss.interval.high:+.0%}",
            f"{loss.adjusted_p:.2g}",
            "loses items" if is_loss(loss) else "solves more" if loss.shown else "no difference shown",
        )
        for cliff in evidence.cliffs
        for loss in cliff.losses
    ]
    columns = ("Model", "Task", "Quantization", "Items", "Solved", "Lost", "Won", "Difference", "95 %", "p",
               "What may be said")  # fmt: skip
    return Table("What quantizing costs", columns, tuple(rows))


def side_by_side(evidence: Evidence) -> Table:
    """Each quantization of a model in one row: size, memory, speed, fidelity, items."""
    columns, rows = quants.cells(evidence)
    return _narrowed(Table("Quantizations side by side", columns, tuple(rows)))


def preferred(evidence: Evidence) -> Table:
    """People's votes: strengths on the scale of logits."""
    rows = [
        (vote.criterion, s.model, f"{s.value:+.2f}", f"{s.interval.low:+.2f} to {s.interval.high:+.2f}", str(s.votes),
         "preferred" if vote.ranking.winner == s.model else "")
        for vote in evidence.votes
        for s in vote.ranking.strengths
    ]  # fmt: skip
    return _narrowed(
        Table("People's ratings", ("Criterion", "Model", "Strength", "95 %", "Votes", "Shown"), tuple(rows))
    )


def others(evidence: Evidence) -> Table:
    """What a team's results say of the same files, and of which machine. A suite with another content than here has the
    start of its hash behind its name."""
    asked = {(r.suite.partition("@")[0], r.language): r.suite_sha256 for r in evidence.items}

    def suite(of: Accuracy) -> str:
        same = asked.get((of.task, of.language), of.suite_sha256) == of.suite_sha256
        return of.task if same else f"{of.task}@{(of.suite_sha256 or 'unknown')[:8]}"

    rows = []
    for label, known in evidence.others.items():
        rows += [
            (label, f"solved of {suite(a)} ({a.language})", f"{a.share.value:.0%}", f"{a.share.low:.0%} to "
             f"{a.share.high:.0%}", str(a.share.n), "")
            for a in known.accuracy
        ]  # fmt: skip
        rows += [
            (label, f"{s.metric} {s.scenario}/{s.language}/{s.load}", number(s.median),
             NONE if s.low is None or s.high is None else f"{number(s.low)} to {number(s.high)}", str(s.n), s.machine)
            for s in known.speeds
        ]  # fmt: skip
    return Table("Measured by others", ("Model", "Figure", "Median or share", "95 %", "n", "Machine"), tuple(rows))


def provenance(evidence: Evidence) -> Table:
    """Which bytes were measured, by what, with which settings."""
    rows = [
        (
            row.label,
            row.model_id or row.model,
            row.file_sha256 or NONE,
            row.quantization or "",
            " ".join(word for word in (row.engine, row.engine_version) if word),
            str(row.context or ""),
            str(row.threads or ""),
            row.endpoint_host or "",
        )
        for label in evidence.labels
        if (row := evidence.rows.get(label)) is not None
    ]
    columns = ("Model", "Model id", "SHA-256 of the file", "Quantization", "Engine", "Context", "Threads", "Endpoint")
    return _narrowed(Table("What was measured", columns, tuple(rows)))


def runs(evidence: Evidence) -> Table:
    """Where and when."""
    every = {run.id: run for run in [p.run for p in evidence.panels] + evidence.item_runs}
    rows = [
        (
            short(run),
            run.kind,
            run.started_at[:16].replace("T", " "),
            run.status,
            machine_words(run.machine),
            str(run.machine.get("system", "")),
            ", ".join(f"{name} {value}" for name, value in run.versions.items()),
        )
        for run in every.values()
    ]
    return Table("Runs", ("Run", "Kind", "Started (UTC)", "Status", "Machine", "System", "Versions"), tuple(rows))


def all_of(evidence: Evidence, judged: Sequence[Judged]) -> list[Table]:
    """Those that have rows, in the order of reading."""
    found = []
    for panel, said in zip(evidence.panels, judged, strict=False):
        found += [speeds(panel), ratios(said, panel)]
    found += [
        side_by_side(evidence),
        solved(evidence),
        fidelity(evidence),
        quantized(evidence),
        preferred(evidence),
        others(evidence),
        provenance(evidence),
        runs(evidence),
    ]
    return [table for table in found if table.rows]

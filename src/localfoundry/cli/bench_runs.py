"""What was measured before: listed, shown again, exported, one set beside another, and named as a baseline."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.errors import DiskError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localfoundry.bench.history import Change
    from localfoundry.bench.outcome import Measurement
    from localfoundry.results.db import Results
    from localfoundry.results.rows import Run


def opened() -> Results:
    """The results file of this home. Raises DiskError."""
    from localfoundry.results.db import FILE_NAME, Results

    return Results(context.settings().home / FILE_NAME, output.note)


def short(run: str) -> str:
    """The end of an id, which is random and enough to name a run."""
    return run[-6:].lower()


@click.command("list")
@context.json_option
def list_runs(as_json: bool) -> None:
    """List the runs that are kept, the newest last."""
    with opened() as results:
        runs = [(run, [row.label for row in results.candidates(run.id)]) for run in results.runs("bench")]
    if as_json:
        import msgspec

        output.document({"runs": [msgspec.to_builtins(run) | {"candidates": labels} for run, labels in runs]})
    elif not runs:
        output.note("nothing has been measured here yet")
    else:
        rows = [
            (short(run.id), run.started_at[:16].replace("T", " "), run.status, run.baseline or "", ", ".join(labels))
            for run, labels in runs
        ]
        output.table(("Run", "Started (UTC)", "Status", "Baseline", "Candidates"), rows)


@click.command()
@click.argument("run")
@context.json_option
def show(run: str, as_json: bool) -> None:
    """Show a run again. RUN is its id or the end of it, the name of a baseline, or `last`."""
    from localfoundry.cli import bench_run

    found, result = read(run)
    if as_json:
        output.document(stored_document(found, result))
    else:
        bench_run.show(bench_run.Done(result, None, {}), context.settings())


@click.command()
@click.argument("run")
@click.option("--csv", "as_csv", is_flag=True, help="A line for each request instead of JSON.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON; this is what it does anyway.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
def export(run: str, as_csv: bool, as_json: bool, file: Path | None) -> None:
    """Write a run with its raw samples to FILE, or to standard output."""
    if as_csv and as_json:
        raise UsageError("a file is either CSV or JSON", hint=f"foundry bench export {run} --csv")
    found, result = read(run)
    if as_csv:
        text = as_lines(result)
    else:
        import json

        text = json.dumps(stored_document(found, result), indent=2, ensure_ascii=False) + "\n"
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise DiskError(f"cannot write {file}: {exc.strerror}") from exc
    output.note(f"wrote {file}")


@click.command()
@click.argument("old")
@click.argument("new")
@context.json_option
def diff(old: str, new: str, as_json: bool) -> None:
    """Set run NEW beside run OLD: ratios with their intervals, paired by prompt."""
    import msgspec

    from localfoundry.bench import history

    (_, before), (_, after) = read(old), read(new)
    changes, missing = history.changes(before, after), history.missing(before, after)
    if as_json:
        output.document({"changes": msgspec.to_builtins(changes), "missing": missing})
        return
    show_changes(changes)
    for words in missing:
        output.data(words)


@click.command()
@click.argument("action", type=click.Choice(["set", "list"]))
@click.argument("name", required=False)
@click.argument("run", required=False)
@context.json_option
def baseline(action: str, name: str | None, run: str | None, as_json: bool) -> None:
    """`set NAME RUN` names a run to check later ones against; `list` shows the names."""
    with opened() as results:
        if action == "set":
            if name is None or run is None:
                raise UsageError("a baseline needs a name and a run", hint="foundry bench baseline set NAME last")
            results.set_baseline(name, results.run(run, "bench").id)
        named = {known.baseline: known.id for known in results.runs("bench") if known.baseline}
    if as_json:
        output.document({"baselines": named})
    elif action == "list":
        output.table(("Baseline", "Run"), [(known, short(of)) for known, of in named.items()])
    elif name is not None:
        output.data(f"Baseline {name} is run {short(named[name])}")


def read(name: str) -> tuple[Run, Measurement]:
    """Raises UnknownRun, DiskError."""
    from localfoundry.bench import history

    with opened() as results:
        found = results.run(name, "bench")
        return found, history.read(results, found)


def stored_document(run: Run, result: Measurement) -> dict[str, object]:
    """As a bench prints it, with the machine and the versions of then."""
    import msgspec

    from localfoundry.bench import report

    with opened() as results:
        rows = results.candidates(run.id)
    names = report.ModelFacts.__struct_fields__
    facts = {row.model: report.ModelFacts(**{name: getattr(row, name) for name in names}) for row in rows}
    told = report.document(result, facts, run.id)
    kept = {"machine": run.machine, "versions": run.versions, "status": run.status, "baseline": run.baseline}
    return (
        told
        | kept
        | {"started_at": run.started_at, "finished_at": run.finished_at, "candidate_rows": msgspec.to_builtins(rows)}
    )


def as_lines(result: Measurement) -> str:
    """CSV: a line for each request, times in seconds."""
    from localfoundry.bench import figures

    columns = ("alias", "model", "scenario", "language", "load", "round", "seq", "ok", "prompt_tokens", "cached_tokens",
               "completion_tokens", *figures.METRICS, "cost", "finish_reason", "error")  # fmt: skip
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    for outcome in result.outcomes:
        for s in outcome.samples:
            figures_ = [read(s) for read in figures.METRICS.values()]
            counts = (s.prompt_tokens, s.cached_tokens, s.completion_tokens)
            lines.writerow([
                s.label, s.model, s.scenario, s.language, s.load, s.round, s.seq, int(s.error is None), *counts,
                *figures_, outcome.candidate.cost(s), s.finish_reason, s.error,
            ])  # fmt: skip
    return text.getvalue()


def show_changes(changes: Sequence[Change]) -> None:
    """A table of ratios and what they allow to say."""
    rows = []
    for change in changes:
        ratio = change.ratio
        interval = f"{ratio.interval.low:.3f} to {ratio.interval.high:.3f}" if ratio.interval else "–"
        rows.append(
            (
                change.label,
                change.condition,
                change.metric,
                f"{ratio.value:.3f}",
                interval,
                str(ratio.n),
                change.judgement,
            )
        )
    if rows:
        output.table(("Model", "Condition", "Metric", "New/old", "95 %", "Pairs", "Judgement"), rows)
    else:
        output.note("the two runs have nothing in common that could be compared")


def plain_changes(changes: Sequence[Change]) -> list[dict[str, Any]]:
    import msgspec

    found: list[dict[str, Any]] = msgspec.to_builtins(changes)
    return found

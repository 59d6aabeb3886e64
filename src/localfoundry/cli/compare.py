"""`foundry compare`: candidates measured in turns or read from runs, a choice with its evidence, and a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.cli.endpoint_options import endpoint_options
from localfoundry.errors import DiskError, InvalidRequest

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate
    from localfoundry.bench.plan import Plan
    from localfoundry.compare.evidence import Evidence
    from localfoundry.compare.verdict import Judged
    from localfoundry.config import Settings
    from localfoundry.quality.suite import Suite
    from localfoundry.results.db import Results
    from localfoundry.results.rows import Run

# The scenario of the bench for each pack of items.
_TASKS = {
    "chat": "chat", "code": "code", "reasoning": "chat", "extraction": "structured", "recall": "retrieval",
    "tools": "chat",
}  # fmt: skip
_VARIANT = re.compile(r"^(?P<model>.+)@(?P<settings>(?:ctx|threads|engine)=[^@]*)$")
_SETTINGS = {"ctx": "context", "threads": "threads", "engine": "engine"}
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--task",
    type=click.Choice(list(_TASKS)),
    default="chat",
    show_default=True,
    help="Which kind of prompts is timed, and which pack of items --eval asks.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Measured runs of each.")
@click.option("--concurrency", default="1", show_default=True, help="Streams at a time, as a list: 1,2,4,8.")
@click.option("--max-tokens", type=click.IntRange(1), help="Tokens to answer with [default: the scenario's].")
@click.option("--language", type=click.Choice(["en", "da"]), default="en", show_default=True, help="Of the items.")
@click.option("--eval", "with_items", is_flag=True, help="Also ask the task's items, whose answers can be checked.")
@click.option("--items", "item_count", type=click.IntRange(1), help="At most so many of them, evenly over the pack.")
@click.option("--timeout", default="300s", show_default=True, help="Give up on an answer after so long.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="RUN",
    help="Measure nothing: read this run of a bench or of items; several are possible.",
)
@click.option("--again", is_flag=True, help="Measure also what was measured before in just this way.")
@endpoint_options
@click.option("--report", "report_file", type=_FILE, metavar="FILE", help="Write the page: one HTML file.")
@click.option("--no-charts", is_flag=True, help="A page without charts, which needs no further package.")
@click.option("--png", "png_file", type=_FILE, metavar="FILE", help="Write the charts as one picture.")
@click.option("--md", "md_file", type=_FILE, metavar="FILE", help="Write Markdown.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Write every figure as CSV.")
@context.json_option
def compare(models: tuple[str, ...], sources: tuple[str, ...], as_json: bool, **options: Any) -> int:  # fmt: skip
    """Compare models side by side, and say which one to take and on what evidence.

    One model can be compared with itself in other settings: MODEL@ctx=4096, MODEL@threads=1, MODEL@engine=openvino,
    MODEL@ctx=4096,threads=2.
    Variants of a model, such as its quantizations, are named by their ids (`foundry model info MODEL`).
    """
    given = context.settings()
    _check_files(options)
    from localfoundry.results.db import FILE_NAME, Results

    suites: list[Suite] = []
    with Results(given.home / FILE_NAME, output.note) as results:
        if sources:
            if models or options["endpoints"]:
                raise InvalidRequest("either models are measured or runs are read, with --from", param="from")
            runs, cut = [results.run(name) for name in sources], False
        else:
            runs, cut, suites = _measured(given, results, models, options, quiet=as_json)
        with context.uncollected():
            evidence, judged = _evidence(given, results, runs)
    _tell(given, evidence, judged, suites, options, as_json=as_json)
    if cut:
        return 130
    return 0 if any(f.measured for panel in evidence.panels for f in panel.figures) or evidence.items else 1


def _check_files(options: dict[str, Any]) -> None:
    """That nothing is measured for an hour which can then not be drawn or written."""
    for name in ("report_file", "png_file", "md_file", "csv_file"):
        path: Path | None = options[name]
        if path is not None and not path.parent.is_dir():
            raise DiskError(f"there is no folder {path.parent} for {path.name}")
    if options["png_file"] or (options["report_file"] and not options["no_charts"]):
        from localfoundry.compare import draw

        draw.require()


def _measured(
    given: Settings, results: Results, models: Sequence[str], options: dict[str, Any], *, quiet: bool
) -> tuple[list[Run], bool, list[Suite]]:
    """The runs to compare, measured now or before; whether they were cut short; the suites asked."""
    import asyncio

    from localfoundry.cli import compare_measure
    from localfoundry.cli.compare_services import opened
    from localfoundry.cli.endpoint_options import keys_of

    candidates = _candidates(given, models, options)
    suites = _suites(options)
    work = compare_measure.Work(given, candidates, keys_of(candidates), _plan(options), suites, quiet)
    bench = None if options["again"] else compare_measure.kept_speeds(work, results)
    asked = None if options["again"] else compare_measure.kept_items(work, results)
    if bench is not None:
        compare_measure.told_again(bench)
    lacking = options["with_items"] and (asked is None or not compare_measure.whole(work, results, asked))

    async def run() -> tuple[list[Run], bool]:
        found, cut = [bench] if bench else [], False
        async with opened(given, candidates, quiet) as services:
            if bench is None:
                measured, cut = await compare_measure.speeds(work, results, services)
                found.append(measured)
            if lacking and not cut:
                answered, cut = await compare_measure.items(work, results, services, asked)
                found.append(answered)
        return found, cut

    if bench is not None and not lacking:
        runs, cut = [bench], False
    else:
        runs, cut = asyncio.run(run())
    if asked is not None and not lacking:
        runs.append(asked)
    return runs, cut, suites


def _plan(options: dict[str, Any]) -> Plan:
    from localfoundry.bench.plan import Plan
    from localfoundry.units import parse_duration

    try:
        levels = tuple(int(word) for word in options["concurrency"].split(",") if word.strip())
        timeout_s = float(parse_duration(options["timeout"]))
    except ValueError as exc:
        raise InvalidRequest(f"--concurrency is a list such as 1,2,4 and --timeout a time such as 60s: {exc}") from None
    plan = Plan(
        scenarios=(_TASKS[options["task"]],), concurrency=levels, rounds=options["rounds"], timeout_s=timeout_s,
        currency=options["currency"],
    )  # fmt: skip
    plan.check()
    return plan


def _suites(options: dict[str, Any]) -> list[Suite]:
    import msgspec

    from localfoundry.quality import suite as reading

    found = reading.pack(options["task"], options["language"])
    if options["item_count"]:
        found = msgspec.structs.replace(found, items=reading.spread(found.items, options["item_count"]))
    return [found]


def _candidates(given: Settings, models: Sequence[str], options: dict[str, Any]) -> list[Candidate]:
    """Raises InvalidRequest for fewer than two, and for two that are the same."""
    from localfoundry.cli.bench_options import read_candidates

    none: dict[str, Any] = {"max_tokens": (), "prompt_words": None, "prompt": None}
    if options["max_tokens"]:
        none["max_tokens"] = (options["max_tokens"],)
    named = list(models)
    if len(named) + len(options["endpoints"]) < 2:
        raise InvalidRequest(
            f"{len(named) + len(options['endpoints'])} candidates; a comparison needs at least 2",
            hint=f"foundry bench {named[0]}" if named else "foundry compare smollm2-135m smollm2-135m@threads=1",
            param="models",
        )
    found = [_variant(candidate) for candidate in read_candidates(named, {**options, **none})]
    seen: dict[tuple[object, ...], str] = {}
    for candidate in found:
        manifest = context.cached(given, candidate.model) if candidate.endpoint is None else None
        key = (manifest.id if manifest else candidate.model, candidate.endpoint, *sorted(candidate.settings.items()))
        if key in seen:
            raise InvalidRequest(
                f"{seen[key]!r} and {candidate.label!r} are the same candidate; their answers would be the same",
                hint=f"foundry compare {candidate.model} {candidate.model}@threads=1",
                param="models",
            )
        seen[key] = candidate.label
    return found


def _variant(candidate: Candidate) -> Candidate:
    """`MODEL@ctx=4096,threads=1` as a model with settings. Raises InvalidRequest."""
    import msgspec

    from localfoundry.engines import engines
    from localfoundry.engines.choice import named

    match = _VARIANT.match(candidate.model)
    if match is None or candidate.endpoint is not None:
        return candidate
    settings: dict[str, int | str] = {}
    for part in match["settings"].split(","):
        name, _, value = part.partition("=")
        if name == "engine":
            settings["engine"] = named(value, engines()).name
            continue
        if name not in _SETTINGS or not value.isdecimal() or not 1 <= int(value) <= 10_000_000:
            raise InvalidRequest(
                f"{candidate.model!r}: {part!r} is no setting; there are ctx=TOKENS, threads=NUMBER and engine=NAME",
                param="models",
            )
        settings[_SETTINGS[name]] = int(value)
    return msgspec.structs.replace(candidate, model=match["model"], settings=settings)


def _evidence(given: Settings, results: Results, runs: Sequence[Run]) -> tuple[Evidence, list[Judged]]:
    from localfoundry.compare.evidence import gather
    from localfoundry.compare.verdict import judge
    from localfoundry.results import outliers, team_file
    from localfoundry.results.evidence import Known

    found = gather(results, runs)
    shared = team_file.of_home(given.home).runs
    if shared:
        known = Known(others=tuple(outliers.counted(shared)))
        for label, row in found.rows.items():
            told = known.of(file_sha256=row.file_sha256, model_id=row.model_id)
            if told.accuracy or told.speeds:
                found.others[label] = told
    return found, judge(found)


def _tell(
    given: Settings, evidence: Evidence, judged: list[Judged], suites: list[Suite], options: dict[str, Any], *,
    as_json: bool,
) -> None:  # fmt: skip
    """On the terminal, and into the files that were asked for."""
    from localfoundry.cli import bench_run
    from localfoundry.compare import export, tables, text

    described: dict[str, str] = {}
    for panel in evidence.panels:
        by_model = bench_run.descriptions(given, panel.measurement)
        described |= {
            o.candidate.label: by_model[o.candidate.model]
            for o in panel.measurement.outcomes
            if o.candidate.model in by_model
        }
    if as_json:
        output.document(export.document(evidence, judged, described))
    else:
        for table in tables.all_of(evidence, judged):
            output.data(f"{table.name}:")
            output.table(table.columns, table.rows)
            output.data()
        for name, meaning in text.definitions(evidence).items():
            output.data(output.dim(f"{name}: {meaning}"))
        output.data()
        output.data(text.block(evidence, judged, described))
        for note in evidence.notes:
            output.note(note)
    _write_files(evidence, judged, described, suites, options)


def _write_files(
    evidence: Evidence, judged: list[Judged], described: dict[str, str], suites: list[Suite], options: dict[str, Any]
) -> None:
    from datetime import UTC, datetime

    from localfoundry.compare import charts, draw, export, page, text

    if options["report_file"]:
        from localfoundry.cli.compare_measure import packs_of, prompts

        made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        whole = page.page(
            evidence, judged, made_at=made_at, descriptions=described,
            prompts=prompts(suites or packs_of(evidence.items)), with_charts=not options["no_charts"],
        )  # fmt: skip
        _write(options["report_file"], whole.encode())
    if options["md_file"]:
        _write(options["md_file"], text.markdown(evidence, judged, described).encode())
    if options["csv_file"]:
        _write(options["csv_file"], export.lines(evidence).encode())
    if options["png_file"]:
        _write(options["png_file"], draw.png(charts.charts(evidence)))


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise DiskError(f"cannot write {path}: {exc.strerror}") from exc
    output.note(f"wrote {path}")

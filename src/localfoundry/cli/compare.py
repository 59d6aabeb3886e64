"""`foundry compare`: candidates measured in turns or read from runs, a choice with its evidence, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.cli.endpoint_options import endpoint_options
from localfoundry.errors import DiskError, InvalidRequest

if TYPE_CHECKING:
    from localfoundry.cli.compare_runs import Compared
    from localfoundry.compare.evidence import Evidence
    from localfoundry.compare.verdict import Judged
    from localfoundry.config import Settings
    from localfoundry.quality.suite import Suite
    from localfoundry.results.db import Results

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--task",
    type=click.Choice(["chat", "code", "reasoning", "extraction", "recall", "tools"]),
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
@click.option("--fidelity", is_flag=True, help="Also measure how far each is from its source weights in float32.")
@click.option(
    "--every",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="With --fidelity: only each N-th position of the text.",
)
@click.option("--reference", metavar="FILE", help="What --fidelity compares with; that of each model when left out.")
@click.option(
    "--quants",
    metavar="TYPES",
    help="Compare one MODEL in these quantizations, such as Q8_0,Q4_K_M: what is "
    "missing is made first. Implies --eval and --fidelity.",
)
@click.option("--yes", is_flag=True, help="With --quants: make what is missing without asking.")
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
    MODEL@ctx=4096,threads=2; MODEL@tuned=no is how it was loaded before it was tuned.
    Variants of a model, such as its quantizations, are named by their ids (`foundry model info MODEL`).
    """
    given = context.settings()
    _check_files(options)
    from localfoundry.cli import compare_runs
    from localfoundry.cli.compare_runs import Compared
    from localfoundry.results.db import FILE_NAME, Results

    with Results(given.home / FILE_NAME, output.note) as results:
        if sources:
            if models or options["endpoints"]:
                raise InvalidRequest("either models are measured or runs are read, with --from", param="from")
            compared = Compared([results.run(name) for name in sources])
        else:
            if options["quants"]:
                models = _quantized(given, models, options, quiet=as_json)
            compared = compare_runs.measured(given, results, models, options, quiet=as_json)
        with context.uncollected():
            evidence, judged = _evidence(given, results, compared)
    _tell(given, evidence, judged, compared.suites, options, as_json=as_json)
    if compared.cut:
        return 130
    measured = any(f.measured for panel in evidence.panels for f in panel.figures)
    return 0 if measured or evidence.items or evidence.fidelity else 1


def _quantized(given: Settings, models: tuple[str, ...], options: dict[str, Any], *, quiet: bool) -> tuple[str, ...]:
    """The quantizations of a model as candidates, made where they are missing; `options` then ask for all of it."""
    from localfoundry.cli import compare_quants

    model = compare_quants.named(models, options["endpoints"])
    options |= {"with_items": True, "fidelity": True}
    return tuple(compare_quants.versions(given, model, options["quants"], yes=options["yes"], quiet=quiet))


def _check_files(options: dict[str, Any]) -> None:
    """That nothing is measured for an hour which can then not be drawn or written."""
    for name in ("report_file", "png_file", "md_file", "csv_file"):
        path: Path | None = options[name]
        if path is not None and not path.parent.is_dir():
            raise DiskError(f"there is no folder {path.parent} for {path.name}")
    if options["png_file"] or (options["report_file"] and not options["no_charts"]):
        from localfoundry.compare import draw

        draw.require()


def _evidence(given: Settings, results: Results, compared: Compared) -> tuple[Evidence, list[Judged]]:
    from localfoundry.cli.fidelity_runs import kept
    from localfoundry.compare.evidence import gather
    from localfoundry.compare.verdict import judge
    from localfoundry.results import outliers, team_file
    from localfoundry.results.evidence import Known
    from localfoundry.service.tuned import sha256_of

    found = gather(results, compared.runs)
    found.fidelity |= compared.fidelity
    for label, row in found.rows.items():
        known = None if label in found.fidelity else kept(results, row)
        if known is not None:
            found.fidelity[label] = known
    store = context.store(given)
    by_sha256 = {sha256_of(store, manifest): manifest for manifest in store.manifests()}
    for label, row in found.rows.items():
        if row.endpoint_host is not None:
            continue
        # By its sum, as what ran may have stood in for the model that was asked for.
        manifest = by_sha256.get(row.file_sha256 or "") or context.cached(given, row.model_id or row.model)
        if manifest is not None:
            found.sizes[label] = manifest.size_bytes
    shared = team_file.of_home(given.home).runs
    if shared:
        team = Known(others=tuple(outliers.counted(shared)))
        for label, row in found.rows.items():
            told = team.of(file_sha256=row.file_sha256, model_id=row.model_id)
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

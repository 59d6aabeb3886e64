"""`foundry results …`: what was measured and rated here, out as models.json; what others measured, in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.cli.plain import plain
from localfoundry.errors import InvalidRequest

if TYPE_CHECKING:
    from localfoundry.results.models_json import Document, SharedRun
    from localfoundry.results.outliers import Flag

_FILE = click.Path(path_type=Path)
_MOST_RUNS_SHOWN = 200


@click.command()
@click.argument("file", type=_FILE, default=Path("models.json"), required=False)
@click.option("--run", "names", multiple=True, help="Only this run, by id or baseline name; several times.")
@click.option("--by", help="Who passes it on; stands beside each run and is no part of its id.")
@click.option("--anonymous", is_flag=True, help="Leave out the names of raters; they stay told apart.")
def export(file: Path, names: tuple[str, ...], by: str | None, anonymous: bool) -> None:
    """Write finished runs of this machine to FILE; `-` is standard output. No prompts, answers, paths or secrets."""
    from localfoundry.results import db, models_json, sharing, team_file

    given = context.settings()
    with db.Results(given.home / db.FILE_NAME, output.note) as results:
        runs = [results.run(name) for name in names] if names else results.runs()
        document = sharing.shared(results, runs, by, anonymous=anonymous)
    if names and len(document.runs) < len({run.id for run in runs}):
        raise InvalidRequest("a run that still goes on cannot be shared", hint="foundry results show")
    # What goes out must come in elsewhere: it passes the same checks.
    models_json.decode(models_json.encode(document), "what is to be written")
    if str(file) == "-":
        output.data(models_json.encode(document).decode(), end="")
    else:
        team_file.write(file, document)
        output.note(f"{_count(len(document.runs))} written to {file}")


@click.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--into", type=_FILE, help="Merge into this file; left out: what recommendations here are based on.")
@context.json_option
def merge(files: tuple[Path, ...], into: Path | None, as_json: bool) -> None:
    """Merge models.json FILES: all of them or, where one is refused, none. In any order, any number of times."""
    from localfoundry.results import outliers, team_file

    target = into or context.settings().home / team_file.FILE_NAME
    document, new = team_file.merge_into(target, files)
    found = outliers.flags(document.runs)
    if as_json:
        output.document({"file": str(target), "runs": len(document.runs), "new": new, "flags": _flags(found)})
        return
    output.data(f"{_count(new)} new, {len(document.runs)} in all, in {target}")
    _show_flags(found)


@click.command()
@click.argument("file", type=_FILE)
@context.json_option
def validate(file: Path, as_json: bool) -> None:
    """Check FILE: its form, that nothing was changed since, no secrets or paths; and which runs are outliers."""
    from localfoundry.results import outliers, team_file

    document = team_file.read(file)
    found = outliers.flags(document.runs)
    if as_json:
        output.document({"valid": True, "runs": len(document.runs), "flags": _flags(found)})
        return
    output.data(f"{file} is sound: {_count(len(document.runs))}")
    _show_flags(found)


@click.command()
@click.argument("file", type=_FILE, required=False)
@context.json_option
def show(file: Path | None, as_json: bool) -> None:
    """Show the runs of FILE, or those of this machine and those merged here."""
    from localfoundry.results import outliers

    parts = [("", _read(file))] if file is not None else _of_home()
    runs = [(source, run) for source, document in parts for run in document.runs]
    found = outliers.flags([run for _, run in runs])
    if as_json:
        output.document({"runs": [_summary(source, run) for source, run in runs], "flags": _flags(found)})
        return
    if not runs:
        output.data("No results yet")
        return
    rows = [_row(source, run) for source, run in runs[-_MOST_RUNS_SHOWN:]]
    output.table(["Run", "Kind", "Started", "Models", "Holds", "Machine", "Source"], rows)
    if len(runs) > _MOST_RUNS_SHOWN:
        output.note(f"the last {_MOST_RUNS_SHOWN} of {len(runs)} runs; --json prints all")
    _show_flags(found)


@click.command()
def schema() -> None:
    """Print the JSON Schema of models.json."""
    from localfoundry.results import models_json

    output.document(models_json.schema())


def _read(file: Path) -> Document:
    from localfoundry.results import team_file

    return team_file.read(file)


def _of_home() -> list[tuple[str, Document]]:
    from localfoundry.results import db, sharing, team_file

    home = context.settings().home
    found = []
    if (home / db.FILE_NAME).exists():
        with db.Results(home / db.FILE_NAME, output.note) as results:
            found.append(("here", sharing.shared(results, results.runs(), None)))
    return [*found, ("others", team_file.of_home(home))]


def _summary(source: str, run: SharedRun) -> dict[str, Any]:
    """All of a run but its raw values."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(run)
    for row in document.get("speed", ()):
        for value in row.values():
            if isinstance(value, dict):
                value["n"] = len(value.pop("values"))
    return document | ({"source": source} if source else {})


def _row(source: str, run: SharedRun) -> list[str]:
    parts = [(sum(row.requests for row in run.speed), "requests")]
    parts += [(sum(len(row.passed) + len(row.failed) for row in run.tasks), "items"), (len(run.votes), "votes")]
    cpu = run.machine.get("cpu")
    return [
        run.run[-8:],
        run.kind,
        run.started_at[:16].replace("T", " "),
        plain(", ".join(candidate.label for candidate in run.candidates)),
        ", ".join(f"{n} {word}" for n, word in parts if n) or "nothing",
        plain(str(cpu or "unknown")),
        plain(source or ", ".join(run.passed_on_by) or "unnamed"),
    ]


def _flags(found: Sequence[Flag]) -> list[dict[str, str]]:
    return [{"run": flag.run, "label": flag.label, "why": flag.why} for flag in found]


def _show_flags(found: Sequence[Flag]) -> None:
    for flag in found:
        output.data(f"look at {flag.run[:19]} {plain(flag.label)}: {plain(flag.why)}")


def _count(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"

"""`foundry cache verify`: read everything again, name what is damaged, and fetch exactly that again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import DamagedModel, FoundryError
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.cli.progress import PullProgress
    from localfoundry.store.store import Store
    from localfoundry.store.verify import Checked


@click.command("verify")
@click.argument("name", metavar="[MODEL]", required=False)
@click.option("--repair", "mend", is_flag=True, help="Fetch what is damaged again, from where it came from.")
@context.json_option
def verify(name: str | None, mend: bool, as_json: bool) -> None:
    """Read the files of all models, or of one, and compare them with the sums they were verified with."""
    from localfoundry.cli.progress import PullProgress
    from localfoundry.cli.versions import required
    from localfoundry.store import verify as verifying

    given = context.settings()
    store = context.store(given)
    manifests, unreadable = store.contents()
    if name:
        manifests, unreadable = [required(given, name)], []
    failures: list[FoundryError] = []
    with PullProgress() as progress:
        found = verifying.verify(store, manifests, progress)
        rows = [_document(checked) for checked in found]
        if mend:
            for checked, row in zip(found, rows, strict=True):
                _mend(given, store, checked, row, failures, progress)
    if as_json:
        broken = [{"path": str(d.path), "reason": d.reason} for d in unreadable]
        output.document({"files": rows, "damagedVersions": broken})
    else:
        for row in rows:
            _show(row)
        for damaged in unreadable:
            output.data(f"damaged: {damaged.path} ({damaged.reason})")
    bad = [row for row in rows if row["state"] == "bad"]
    if bad or unreadable:
        raise _verdict(bad, len(unreadable), failures)
    if not as_json:
        mended = sum(row["state"] == "repaired" for row in rows)
        output.data(
            f"{len(rows)} files of {len(manifests)} versions are what they were"
            + f", {mended} after repair" * bool(mended)
        )


def _mend(
    given: Settings, store: Store, checked: Checked, row: dict[str, Any], failures: list[FoundryError],
    progress: PullProgress,
) -> None:  # fmt: skip
    import asyncio

    from localfoundry.store.repair import repair

    if checked.is_healthy:
        return
    try:
        done = asyncio.run(repair(store, checked, settings=given, progress=progress))
    except FoundryError as exc:
        failures.append(exc)
        row["error"] = exc.message
        return
    assert done is not None
    row |= {"state": "repaired", "how": done.how, "fetchedBytes": done.fetched_bytes}


def _document(checked: Checked) -> dict[str, Any]:
    problems = [
        {
            "paths": [str(p) for p in copy.paths],
            "problem": copy.problem,
            "detail": copy.detail,
            "ranges": [{"offset": s.offset, "sizeBytes": s.size_bytes} for s in copy.spans],
        }
        for copy in checked.bad
    ]
    return {
        "name": checked.name,
        "sha256": checked.sha256,
        "sizeBytes": checked.size_bytes,
        "models": checked.ids,
        "state": "ok" if checked.is_healthy else "bad",
        "problems": problems,
    }


def _show(row: dict[str, Any]) -> None:
    for problem in row["problems"]:
        where = ", ".join(f"bytes {r['offset']}-{r['offset'] + r['sizeBytes'] - 1}" for r in problem["ranges"])
        detail = "; ".join(text for text in (problem["detail"], where) if text)
        output.data(f"{problem['problem']}: {problem['paths'][0]}" + (f" ({detail})" if detail else ""))
        output.data(f"    {row['name']} of {', '.join(row['models'])}")
    if row["state"] == "repaired":
        words = {"linked": "from a healthy copy on this disk", "chunks": "only what was damaged", "file": "the file"}
        fetched = f", {format_bytes(row['fetchedBytes'])} fetched" if row["fetchedBytes"] else ""
        output.data(f"    repaired: {words[row['how']]}{fetched}")
    elif "error" in row:
        output.data(f"    not repaired: {row['error']}")


def _verdict(bad: list[dict[str, Any]], unreadable: int, failures: list[FoundryError]) -> DamagedModel:
    models = sorted({name for row in bad for name in row["models"]})
    said = f"{len(bad)} files are damaged ({', '.join(models)})" if bad else f"{unreadable} manifests cannot be read"
    if failures:
        return DamagedModel(f"{said} and could not be repaired: {failures[0].message}", hint=failures[0].hint)
    if bad:
        return DamagedModel(said, hint="foundry cache verify --repair")
    return DamagedModel(said, hint="remove the folders that are named, and download the models again")

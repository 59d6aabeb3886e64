"""`foundry model download`: from a name, a reference or a path to a verified version on this disk."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from localfoundry import engines
from localfoundry.catalog import filters
from localfoundry.cli import context, output
from localfoundry.cli.progress import PullProgress
from localfoundry.config import Settings
from localfoundry.errors import NotRunnable, UnknownModel, UsageError
from localfoundry.sources.plan import PullPlan
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.store.outlook import Outlook


def pull_model(given: Settings, name: str, *, quiet: bool = False) -> Manifest:
    """Download what a name stands for, with a progress bar. Raises as the sources and the store do."""
    import asyncio

    from localfoundry.cli.too_large import too_large
    from localfoundry.store.download import Limits
    from localfoundry.store.pull import pull

    limits = Limits(connections=given.download_connections)

    async def work() -> Manifest:
        plan = await plan_for(given, name)
        say = output.note if quiet else output.data
        say(f"Downloading {plan.name}{f':{plan.version}' if plan.version else ''}...")
        unfit = too_large(given, plan)
        if unfit is not None:
            unfit.show()
        with PullProgress() as progress:
            return await pull(context.store(given), plan, progress, offline=given.offline, limits=limits)

    return asyncio.run(work())


async def plan_for(given: Settings, name: str) -> PullPlan:
    """The plan for a catalog name, or else for a reference or a path. Raises UnknownModel with the nearest names."""
    from localfoundry.sources.resolve import plan_variant, resolve

    catalog = context.catalog(given)
    entry = catalog.find(name)
    if entry is None:
        if not any(mark in name for mark in "/:\\.~"):
            catalog.require(name)
        try:
            return await resolve(name, settings=given)
        except UnknownModel:
            raise
        except UsageError as exc:
            if "/" in name or name.startswith((".", "~")):
                raise
            catalog.require(name)
            raise exc from None
    model, variant = entry
    chosen = variant or filters.preferred_variant(model, engines.runnable_formats())
    if chosen is None or chosen.format not in engines.runnable_formats():
        raise NotRunnable(
            f"no engine here runs {chosen.id if chosen else 'any variant of ' + model.alias}",
            hint=f"foundry model info {model.alias}",
        )
    return await plan_variant(model, chosen, given)


def show_outlook(given: Settings, name: str, *, as_json: bool) -> None:
    """Print what a download would do. Fetches and makes nothing. Raises as `plan_for` does."""
    import asyncio

    from localfoundry.cli.too_large import too_large
    from localfoundry.store.outlook import outlook

    plan = asyncio.run(plan_for(given, name))
    view = outlook(context.store(given), plan)
    unfit = too_large(given, plan)
    if as_json:
        output.document(_outlook_json(view) | {"tooLarge": unfit.document() if unfit else None})
        return
    for note in plan.notes:
        output.note(note)
    output.data(f"{plan.name} from {plan.source}")
    rows = [
        [f.name, format_bytes(f.size_bytes), format_bytes(f.here_bytes), format_bytes(f.fetch_bytes), f.sha256 or "-"]
        for f in view.files
    ]
    output.table(["File", "Size", "Here", "To fetch", "SHA-256"], rows)
    if view.present is not None:
        output.data(f"{view.present.id} is here already: nothing to do.")
    output.data(
        f"To fetch: {format_bytes(view.fetch_bytes)}. "
        f"Free at {given.models_dir}: {format_bytes(view.free_bytes)} now, {format_bytes(view.free_after_bytes)} after."
    )
    if unfit is not None:
        unfit.show()
    if not view.fits:
        output.note(f"This does not fit: {format_bytes(view.needs_bytes)} must be free. Make room: foundry cache clean")


def _outlook_json(view: Outlook) -> dict[str, object]:
    return {
        "name": view.plan.name,
        "alias": view.plan.alias,
        "source": view.plan.source,
        "commit": view.plan.commit,
        "present": view.present.id if view.present else None,
        "files": [dataclasses.asdict(f) for f in view.files],
        "fetch_bytes": view.fetch_bytes,
        "needs_bytes": view.needs_bytes,
        "free_bytes": view.free_bytes,
        "free_after_bytes": view.free_after_bytes,
        "fits": view.fits,
        "notes": list(view.plan.notes),
    }


@click.command()
@click.argument("model")
@click.option("--dry-run", is_flag=True, help="Show what would be fetched and what the disk has then; do nothing.")
@context.json_option
def download(model: str, dry_run: bool, as_json: bool) -> None:
    """Download a model: an alias, hf:ORG/REPO[:QUANT][@REVISION], or a file or folder."""
    given = context.settings()
    if dry_run:
        show_outlook(given, model, as_json=as_json)
        return
    present = context.cached(given, model)
    if present is not None:
        if as_json:
            output.document({"id": present.id, "alias": present.alias, "alreadyCached": True})
        else:
            output.data(f"Model {present.id} was found in the local cache.")
        return
    manifest = pull_model(given, model, quiet=as_json)
    if as_json:
        output.document({"id": manifest.id, "alias": manifest.alias, "alreadyCached": False})
        return
    output.data(f"Model {manifest.id} is verified and in the local cache.")
    output.data("Tips:")
    output.data(f"- To run it:             foundry model run {manifest.alias}")
    output.data(f"- To see what it is:     foundry model info {manifest.alias}")
    output.data(f"- To measure it:         foundry bench {manifest.alias}")

"""`foundry model download`: from a name, a reference or a path to a verified version on this disk."""

from __future__ import annotations

import click

from localfoundry import engines
from localfoundry.catalog import filters
from localfoundry.cli import context, output
from localfoundry.cli.progress import PullProgress
from localfoundry.config import Settings
from localfoundry.errors import NotRunnable, UnknownModel, UsageError
from localfoundry.sources.plan import PullPlan
from localfoundry.store.manifest import Manifest


def pull_model(given: Settings, name: str, *, quiet: bool = False) -> Manifest:
    """Download what a name stands for, with a progress bar. Raises as the sources and the store do."""
    import asyncio

    from localfoundry.store.pull import pull

    async def work() -> Manifest:
        plan = await plan_for(given, name)
        say = output.note if quiet else output.data
        say(f"Downloading {plan.name}{f':{plan.version}' if plan.version else ''}...")
        with PullProgress() as progress:
            return await pull(context.store(given), plan, progress, offline=given.offline)

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


@click.command()
@click.argument("model")
@context.json_option
def download(model: str, as_json: bool) -> None:
    """Download a model: an alias, hf:ORG/REPO[:QUANT][@REVISION], or a file or folder."""
    given = context.settings()
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

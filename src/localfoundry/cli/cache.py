"""`foundry cache …`: what is on the disk, where, and how it goes away. Removal is a plan, a question, then the deed."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from localfoundry import config, instance
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import DiskError, UnknownModel, UsageError
from localfoundry.store.adopted import state_of
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes


@click.command("list")
@context.json_option
def list_cache(as_json: bool) -> None:
    """List the models on this disk."""
    store = context.store(context.settings())
    manifests = store.manifests()
    if as_json:
        models = [{"alias": m.alias, "id": m.id, "sizeBytes": m.size_bytes, "source": m.source, "format": m.format,
                   "quantization": m.quantization, "license": m.license,
                   "adoption": msgspec.to_builtins(state_of(store, m))} for m in manifests]  # fmt: skip
        output.document({"models": models})
        return
    if not manifests:
        output.data("No models cached on device")
    else:
        output.data("Models cached on device:")
        output.data(f"   {'Alias':<30} {'Model ID':<44} Size")
        for m in manifests:
            adoption = state_of(store, m)
            words = f"  ({adoption.words})" if adoption else ""
            output.data(f"💾 {m.alias:<30} {m.id:<44} {format_bytes(m.size_bytes)}{words}")
    for damaged in store.damaged():
        output.note(f"damaged, left alone: {damaged.path} ({damaged.reason})")
    for partial in store.partials():
        whole = f" of {format_bytes(partial.total_bytes)}" if partial.total_bytes else ""
        state = "downloading now" if partial.in_use else "unfinished; the same download goes on from there"
        output.note(f"{partial.name}: {format_bytes(partial.size_bytes)}{whole}, {state}")


@click.command()
@context.json_option
def location(as_json: bool) -> None:
    """Tell where the models are."""
    _say_location(context.settings(), as_json)


def _say_location(given: Settings, as_json: bool) -> None:
    if as_json:
        output.document({"location": str(given.models_dir)})
    else:
        output.data(f"💾 Cache directory path: {given.models_dir}")


@click.command("cd")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@context.json_option
def change_location(path: Path | None, as_json: bool) -> None:
    """Tell where the models are, or keep them in PATH from now on. Models that are cached stay where they are."""
    given = context.settings()
    if path is None:
        _say_location(given, as_json)
        return
    target = path.expanduser().absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DiskError(f"{target} cannot be used: {exc.strerror}", hint="name a folder you may write to") from exc
    if not os.access(target, os.W_OK):
        raise DiskError(f"{target} cannot be used: you may not write to it", hint="name a folder you may write to")
    config.save(given.file, {"cache_dir": target})
    _say_location(context.settings(), as_json)
    if instance.running(given) is not None:
        output.note("The running service keeps the old folder until it is restarted: foundry service restart")


@click.command()
@click.argument("name", metavar="MODEL")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Remove a model from this disk."""
    given = context.settings()
    store = context.store(given)
    manifest = context.cached(given, name)
    if manifest is None:
        known = context.catalog(given).find(name) is not None
        message = f"{name} is not cached" if known else f"no cached model is called {name}"
        raise UnknownModel(message, hint="foundry cache list")
    _refuse_if_loaded(given, manifest)
    question = f"Remove {manifest.id} ({format_bytes(manifest.size_bytes)}) from {given.models_dir}?"
    if not yes and not click.confirm(question):
        output.note("nothing was removed")
        return
    freed = store.remove(manifest)
    output.data(f"Removed {manifest.id}, {format_bytes(freed)} freed")


def _refuse_if_loaded(given: Settings, manifest: Manifest) -> None:
    if instance.running(given) is None:
        return
    loaded = context.with_service(given, lambda client: client.get("/openai/loadedmodels"))
    if manifest.id in loaded:
        raise UsageError(f"{manifest.id} is loaded in the service", hint=f"foundry model unload {manifest.alias}")


@click.command()
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@context.json_option
def clean(yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what no model needs: unfinished downloads and leftovers. Models are never touched; see `cache remove`."""
    store = context.store(context.settings())
    plan = store.plan_clean()
    paths = [*plan.leftovers, *plan.blobs, *(partial.path for partial in plan.partials)]
    if as_json:
        freed = 0 if dry_run or plan.is_empty else store.execute(plan)
        output.document({"plan": [str(p) for p in paths], "planBytes": plan.size_bytes, "freedBytes": freed})
        return
    if plan.is_empty:
        output.data("Nothing to clean: no unfinished downloads and no leftovers")
        return
    for path in paths:
        output.data(f"would remove {path}")
    output.data(f"{format_bytes(plan.size_bytes)} in {len(paths)} files; cached models are not touched")
    # Without a terminal nobody can answer; what is removed here can be had again, and scripts expect it to be done.
    if dry_run or not (yes or not output.interactive() or click.confirm("Remove them?")):
        output.note("nothing was removed")
        return
    output.data(f"{format_bytes(store.execute(plan))} freed")

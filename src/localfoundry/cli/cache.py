"""`foundry cache …`: what is on the disk, where, and how it goes away. Removal is a plan, a question, then the deed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from localfoundry import config
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import DiskError, UsageError
from localfoundry.store.adopted import state_of
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes


@click.command("list")
@context.json_option
def list_cache(as_json: bool) -> None:
    """List the models on this disk, with their last use and what several of them share."""
    from localfoundry.store import space

    store = context.store(context.settings())
    manifests, damaged = store.contents()
    loads = space.last_loads(store)
    shared = space.shared_bytes(manifests)
    partials = store.partials()
    if as_json:
        models = [{"alias": m.alias, "id": m.id, "sizeBytes": m.size_bytes, "sharedBytes": shared[m.id],
                   "lastUsed": _moment(loads.get(m.id)), "createdAt": m.created_at, "source": m.source,
                   "format": m.format, "quantization": m.quantization, "license": m.license,
                   "adoption": msgspec.to_builtins(state_of(store, m))} for m in manifests]  # fmt: skip
        unfinished = [{"name": p.name, "sizeBytes": p.size_bytes, "totalBytes": p.total_bytes, "inUse": p.in_use}
                      for p in partials]  # fmt: skip
        broken = [{"path": str(d.path), "reason": d.reason} for d in damaged]
        output.document({"models": models, "partials": unfinished, "damaged": broken})
        return
    if not manifests:
        output.data("No models cached on device")
    else:
        lines = ["Models cached on device:", f"   {'Alias':<30} {'Model ID':<44} {'Size':<10} {'Last use':<11} Shared"]
        for m in manifests:
            used = (_moment(loads.get(m.id)) or "never")[:10]
            also = format_bytes(shared[m.id]) if shared[m.id] else ""
            adoption = state_of(store, m)
            words = f"  ({adoption.words})" if adoption else ""
            size = format_bytes(m.size_bytes)
            lines.append(f"💾 {m.alias:<30} {m.id:<44} {size:<10} {used:<11} {also}{words}".rstrip())
        output.data("\n".join(lines))
    for entry in damaged:
        output.note(f"damaged, left alone: {entry.path} ({entry.reason})")
    for partial in partials:
        whole = f" of {format_bytes(partial.total_bytes)}" if partial.total_bytes else ""
        state = "downloading now" if partial.in_use else "unfinished; the same download goes on from there"
        output.note(f"{partial.name}: {format_bytes(partial.size_bytes)}{whole}, {state}")


def _moment(epoch: float | None) -> str | None:
    """ISO 8601, UTC."""
    if epoch is None:
        return None
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds")


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
@click.option("--move", "moves", is_flag=True, help="Move the models there; after a crash the same command goes on.")
@context.json_option
def change_location(path: Path | None, moves: bool, as_json: bool) -> None:
    """Tell where the models are, or keep them in PATH from now on. Cached models stay where they are, or move."""
    given = context.settings()
    if path is None:
        if moves:
            raise UsageError("--move needs the folder to move to", hint="foundry cache cd PATH --move")
        _say_location(given, as_json)
        return
    target = path.expanduser().absolute()
    if moves:
        _move(given, target)
        _say_location(context.settings(), as_json)
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DiskError(f"{target} cannot be used: {exc.strerror}", hint="name a folder you may write to") from exc
    if not os.access(target, os.W_OK):
        raise DiskError(f"{target} cannot be used: you may not write to it", hint="name a folder you may write to")
    config.save(given.file, {"cache_dir": target})
    _say_location(context.settings(), as_json)
    from localfoundry import instance

    if instance.running(given) is not None:
        output.note("The running service keeps the old folder until it is restarted: foundry service restart")


def _move(given: Settings, target: Path) -> None:
    from localfoundry import instance
    from localfoundry.cli.progress import PullProgress
    from localfoundry.store.move import execute, plan_move

    if os.environ.get("FOUNDRY_CACHE_DIR"):
        raise UsageError(
            "FOUNDRY_CACHE_DIR says where the models are, and a move could not change that",
            hint="unset FOUNDRY_CACHE_DIR and try again",
        )
    if instance.running(given) is not None:
        raise UsageError("the service is running and uses the models where they are", hint="foundry service stop")
    plan = plan_move(context.store(given), target)
    if not plan.is_switched:
        how = "without copying" if plan.links else f"copying {format_bytes(plan.copy_bytes)}"
        output.note(f"Moving {format_bytes(plan.total_bytes)} from {plan.source} to {plan.target}, {how}")
    with PullProgress() as progress:
        execute(plan, lambda to: config.save(given.file, {"cache_dir": to}), progress)


@click.command()
@click.argument("name", metavar="MODEL[:VERSION]")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Remove a model from this disk: the version that the name means, or the one that is named."""
    from localfoundry.cli.versions import refuse_pinned, required

    given = context.settings()
    store = context.store(given)
    manifest = required(given, name)
    refuse_pinned(given, manifest)
    _refuse_if_loaded(given, manifest)
    question = f"Remove {manifest.id} ({format_bytes(manifest.size_bytes)}) from {given.models_dir}?"
    if not yes and not click.confirm(question):
        output.note("nothing was removed")
        return
    freed = store.remove(manifest)
    output.data(f"Removed {manifest.id}, {format_bytes(freed)} freed")


def _refuse_if_loaded(given: Settings, manifest: Manifest) -> None:
    user = loaded(given).get(manifest.id)
    if user == manifest.id:
        raise UsageError(f"{manifest.id} is loaded in the service", hint=f"foundry model unload {manifest.alias}")
    if user is not None:
        raise UsageError(f"{manifest.id} is in use: the service has it loaded for {user}",
                         hint=f"foundry model unload {user}")  # fmt: skip


def loaded(given: Settings) -> dict[str, str]:
    """Versions whose bytes a running service has loaded, by id, and the id of the model that each is loaded for.

    A model, the re-encoding that runs in its place, and the smaller one that guesses ahead for it.
    """
    from localfoundry import instance

    if instance.running(given) is None:
        return {}
    found: dict[str, str] = {}
    for model in context.with_service(given, lambda client: client.get("/foundry/ps")):
        used = (model["draft"], model["file"], model["id"])
        found |= {version: model["id"] for version in used if version is not None}
    return found

"""`foundry lock` and `foundry sync`: write down what is here, and make another machine hold the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from localfoundry import config
from localfoundry.cli import context, output
from localfoundry.config import Settings, profiles
from localfoundry.errors import FoundryError, LockMismatch, NotRunnable, UsageError
from localfoundry.results import place
from localfoundry.store import disk, lockfile, refs
from localfoundry.store.lockfile import Difference, Lock, LockedModel

if TYPE_CHECKING:
    from localfoundry.store.manifest import Manifest
    from localfoundry.store.store import Store

_LOCKED_SETTINGS = ("context_length", "parallel")


@click.command("lock")
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@click.option("--file", "path", type=click.Path(path_type=Path), default="foundry.lock", show_default=True,
              help="Where to write it.")  # fmt: skip
@context.json_option
def lock(names: tuple[str, ...], path: Path, as_json: bool) -> None:
    """Write down exactly what is here: commits, sums of files, templates, engines and settings; all models, or some."""
    from localfoundry.cli.versions import required

    given = context.settings()
    chosen = [required(given, n) for n in names] if names else context.store(given).current()
    for made in [m for m in chosen if m.recipe is not None]:
        output.note(f"{made.id} was made here and is not locked: foundry model reencode makes the same bytes again")
    chosen = [m for m in chosen if m.recipe is None]
    if not chosen:
        raise UsageError("there are no models to lock", hint="foundry model download MODEL")
    models = tuple({m.id: lockfile.locked(m, _engine(m, given)) for m in chosen}.values())
    sums = {file.sha256 for model in models for file in model.file}
    tuned = tuple(profile for profile in profiles.read(given.home) if profile.sha256 in sums)
    text = lockfile.text_of(Lock(lockfile.FORMAT, _settings(given), models, tuned))
    with disk.writing(path):
        disk.replace_bytes(path.absolute(), text.encode())
    if as_json:
        output.document({"file": str(path), "models": [m.id for m in chosen]})
        return
    output.data(f"{path} holds {len(models)} models")
    for manifest in chosen:
        if manifest.source.startswith("file:"):
            output.note(f"{manifest.id} comes from a file of this machine; elsewhere it has to be imported by hand")


@click.command("sync")
@click.option("--locked", is_flag=True, help="To exactly what the lock file says; there is no other way to sync yet.")
@click.option("--file", "path", type=click.Path(path_type=Path), default="foundry.lock", show_default=True,
              help="The lock file.")  # fmt: skip
@click.option("--check", is_flag=True, help="Only compare; download and change nothing.")
@context.json_option
def sync(locked: bool, path: Path, check: bool, as_json: bool) -> None:
    """Make this machine hold exactly what a lock file says, or say exactly what differs (exit status 1)."""
    if not (locked or check):
        raise UsageError("sync follows a lock file", hint="foundry sync --locked")
    given = context.settings()
    wanted = lockfile.read(path)
    pulled: list[str] = []
    failures: list[tuple[LockedModel, FoundryError]] = []
    if not check:
        pulled, failures = _reproduce(given, wanted)
        _restore_profiles(given, wanted)
    found = _differences(given, wanted)
    if as_json:
        document: dict[str, Any] = {
            "file": str(path),
            "pulled": pulled,
            "differences": [msgspec.to_builtins(d) for d in found],
            "failures": [{"model": m.alias, "error": e.message} for m, e in failures],
        }
        output.document(document)
    else:
        _show(found, failures, pulled)
    if failures:
        raise failures[0][1]
    if found:
        raise LockMismatch(f"{len(found)} things are not as {path} says", hint=_hint(found))
    if not as_json:
        output.data(f"{len(wanted.model)} models are exactly as {path} says")


def _reproduce(given: Settings, wanted: Lock) -> tuple[list[str], list[tuple[LockedModel, FoundryError]]]:
    import asyncio

    pulled, failures = [], []
    for model in wanted.model:
        store = context.store(given)
        try:
            found = lockfile.matching(model, store.manifests())
            if found is None:
                found = asyncio.run(_pull(given, store, model))
                pulled.append(found.id)
            if store.find(model.name) != found:
                refs.move(store, found)
        except FoundryError as exc:
            failures.append((model, exc))
    return pulled, failures


def _restore_profiles(given: Settings, wanted: Lock) -> None:
    """Those for this machine that are not here as they are locked; what was tuned here by itself stays."""
    machine = place.machine_id()
    differing = {d.subject for d in lockfile.profile_differences(wanted, machine, profiles.read(given.home))}
    for profile in lockfile.profiles_for(wanted, machine):
        if profile.purpose in differing:
            profiles.save(given.home, profile)


async def _pull(given: Settings, store: Store, model: LockedModel) -> Manifest:
    from localfoundry.cli.progress import PullProgress
    from localfoundry.sources.resolve import resolve
    from localfoundry.store.pull import pull

    plan = lockfile.held_to(await resolve(model.source, settings=given), model)
    free = all(m.id != f"{model.name}:{model.version}" for m in store.manifests())
    plan = msgspec.structs.replace(plan, version=model.version if free else None)
    with PullProgress() as progress:
        return await pull(store, plan, progress, offline=given.offline)


def _differences(given: Settings, wanted: Lock) -> list[Difference]:
    store = context.store(given)
    manifests = store.manifests()
    current = {m.name: m for m in store.current()}
    found = lockfile.setting_differences(wanted, _settings(given))
    found += lockfile.profile_differences(wanted, place.machine_id(), profiles.read(given.home))
    for model in wanted.model:
        here = lockfile.matching(model, manifests)
        engine = _engine(here, given) if here is not None else None
        found += lockfile.differences(model, manifests, current.get(model.name), engine)
    return found


def _settings(given: Settings) -> dict[str, int]:
    keys = {o.name: o.metadata["key"] for o in config.options()}
    return {keys[name]: getattr(given, name) for name in _LOCKED_SETTINGS}


def _engine(manifest: Manifest, given: Settings) -> tuple[str, str] | None:
    """Name and version of the engine that runs this version here; None where none does."""
    from localfoundry.service import choosing

    try:
        choice = choosing.choose(context.store(given), manifest, given, choosing.wish_of(manifest, given))
    except NotRunnable:
        return None
    engine = choice.candidates[0].engine
    return engine.name, engine.version(given)


def _show(found: list[Difference], failures: list[tuple[LockedModel, FoundryError]], pulled: list[str]) -> None:
    for name in pulled:
        output.data(f"{name} was downloaded")
    for difference in found:
        subject = f" {difference.subject}" if difference.subject else ""
        here = difference.here or "nothing"
        output.data(f"{difference.model}: {difference.what}{subject}: locked {difference.locked}, here {here}")
    for model, failure in failures:
        output.data(f"{model.alias}: {failure.message}")


def _hint(found: list[Difference]) -> str:
    flags = {o.metadata["key"]: o.name.replace("_", "-") for o in config.options()}
    setting = next((d for d in found if d.what == "setting" and d.subject in flags), None)
    hint = next((d.hint for d in found if d.hint), None)
    if hint is None and setting is not None:
        hint = f"foundry service set --{flags[setting.subject or '']} {setting.locked}"
    return hint or "install the engine that is locked, or write a new lock: foundry lock"

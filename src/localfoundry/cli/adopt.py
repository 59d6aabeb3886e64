"""`foundry import`: models that other tools already have on this disk, adopted without a copy."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import click
import msgspec

from localfoundry import engines
from localfoundry.cli import context, output
from localfoundry.cli.progress import PullProgress
from localfoundry.errors import FoundryError, UnknownModel, UsageError
from localfoundry.sources.found import Found, FoundModel, Refused
from localfoundry.sources.owners import OWNERS, scan_owner, scan_path
from localfoundry.sources.reference import local_path
from localfoundry.store.adopt import AdoptionPlan, adopt, plan_adoption
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from localfoundry.units import format_bytes

_COLUMNS = ("Alias", "Owner", "Format", "File Size", "Source", "State")


@click.command("import")
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--from", "origin", metavar="hf|ollama|lmstudio|PATH", help="Only models of this tool or in this folder.")
@click.option("--list", "only_list", is_flag=True, help="Only show what other tools have.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@context.json_option
def import_models(
    sources: tuple[str, ...], origin: str | None, only_list: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Adopt models that Hugging Face, Ollama, LM Studio or you already have on this disk, without a copy.

    SOURCE is a path, or a name out of --list (with * for any part). Files are linked, verified by SHA-256, and never
    changed or removed by us.
    """
    found = _found(sources, origin)
    store = context.store(context.settings())
    plans = plan_adoption(store, found.models)
    new = [p for p in plans if p.present is None]
    if only_list or dry_run or not new:
        _show(plans, found.refused, as_json)
        return 0 if plans or not sources else UsageError.exit_code
    if not as_json:
        _show(plans, found.refused, False)
    if not sources and not yes:
        if not output.interactive():
            raise UsageError("nobody is here to be asked", hint="foundry import --yes")
        if not click.confirm(f"Adopt {len(new)} models ({format_bytes(sum(p.found.size_bytes for p in new))})?"):
            output.note("nothing was adopted")
            return 0
    return _adopt(store, plans, found.refused, as_json)


def _found(sources: tuple[str, ...], origin: str | None) -> Found:
    """What is asked for: all that the tools have, or the part of it that the sources name, and paths."""
    paths = [s for s in sources if _is_path(s)]
    named = [s for s in sources if s not in paths]
    founds = [scan_path(local_path(p)) for p in paths]
    if named or not sources:
        scanned = _scan(origin)
        models = [m for m in scanned.models if not named or any(_fits(m, n) for n in named)]
        missing = [n for n in named if not any(_fits(m, n) for m in scanned.models)]
        if missing:
            raise UnknownModel(f"no other tool here has a model called {missing[0]!r}", hint="foundry import --list")
        founds.append(Found(tuple(models), () if named else scanned.refused))
    return Found(tuple(m for f in founds for m in f.models), tuple(r for f in founds for r in f.refused))


def _scan(origin: str | None) -> Found:
    if origin is not None and origin not in OWNERS:
        return scan_path(local_path(origin))
    founds = [scan_owner(owner, Path.home()) for owner in OWNERS if origin in (None, owner)]
    return Found(tuple(m for f in founds for m in f.models), tuple(r for f in founds for r in f.refused))


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~", ".\\")) or Path(text).exists()


def _fits(model: FoundModel, pattern: str) -> bool:
    bare = model.plan.source.partition(":")[2]
    names = (model.plan.alias, model.plan.name, model.plan.source, bare, bare.split("@")[0], bare.split(":")[0])
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in names)


def _adopt(store: Store, plans: list[AdoptionPlan], refused: tuple[Refused, ...], as_json: bool) -> int:
    """Carry the plans out, one by one; one that fails does not stop the others."""
    done: list[tuple[AdoptionPlan, Manifest]] = []
    failed: list[FoundryError] = []
    with PullProgress() as progress:
        for plan in plans:
            if plan.present is not None:
                continue
            try:
                done.append((plan, adopt(store, plan.found, progress)))
            except FoundryError as exc:
                failed.append(exc)
    for error in failed:
        output.failure(error)
    if as_json:
        _document(
            plans, refused, adopted=[{"id": m.id, "alias": m.alias} for _, m in done],
            failed=[e.document() for e in failed],
        )  # fmt: skip
    else:
        for _, manifest in done:
            _say(manifest)
    return failed[0].exit_code if failed else 0


def _say(manifest: Manifest) -> None:
    how = "linked" if all(f.external is None or f.external.linked for f in manifest.files) else "referred to"
    if manifest.format in engines.runnable_formats():
        output.data(f"Model {manifest.id} is verified and {how}; to run it: foundry model run {manifest.alias}")
    else:
        output.data(f"Model {manifest.id} is verified and {how}")
        output.note(f"{manifest.id} is {manifest.format}, which no engine here runs yet; it is registered only")
    for left in manifest.adopted.untranslated if manifest.adopted else ():
        output.note(f"{manifest.id}: not translated: {left}")


def _show(plans: list[AdoptionPlan], refused: tuple[Refused, ...], as_json: bool) -> None:
    if as_json:
        _document(plans, refused)
        return
    if not plans:
        output.note("no models of other tools were found")
    else:
        rows = [
            [p.found.plan.alias, p.found.owner, p.found.plan.format, format_bytes(p.found.size_bytes),
             p.found.plan.source, _state(p)]
            for p in plans
        ]  # fmt: skip
        output.table(_COLUMNS, rows)
    for item in refused:
        output.note(f"left alone: {item.path}: {item.reason}")


def _state(plan: AdoptionPlan) -> str:
    if plan.present is not None:
        return f"here as {plan.present.id}"
    return "would be linked" if plan.linked else "would be referred to (other disk)"


def _document(plans: list[AdoptionPlan], refused: tuple[Refused, ...], **more: Any) -> None:
    models = [
        {
            "alias": p.found.plan.alias,
            "name": p.found.plan.name,
            "owner": p.found.owner,
            "format": p.found.plan.format,
            "sizeBytes": p.found.size_bytes,
            "source": p.found.plan.source,
            "license": p.found.plan.license,
            "present": p.present.id if p.present else None,
            "how": "link" if p.linked else "reference",
            "runnable": p.found.plan.format in engines.runnable_formats(),
            "untranslated": list(p.found.untranslated),
            "files": [{"name": f.name, "path": str(f.local), "sha256": f.sha256} for f in p.found.plan.files],
        }
        for p in plans
    ]
    output.document({"models": models, "refused": [msgspec.to_builtins(r) for r in refused], **more})

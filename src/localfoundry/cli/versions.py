"""`foundry model versions | update | pin | unpin | rollback`: which version a name means, and what changed upstream."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TYPE_CHECKING, Any

import click
import msgspec

from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import FoundryError, UnknownModel, UsageError
from localfoundry.store import refs
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.sources.plan import PullPlan
    from localfoundry.store.manifest import Manifest
    from localfoundry.store.update import Change, Upstream

WITH_VERSION = re.compile(r"(?P<name>.+)[@:]v?(?P<version>\d{1,9})")


def required(given: Settings, name: str) -> Manifest:
    """The cached version that `name`, `name:2`, `name@2` or `name@v2` stands for. Raises UnknownModel."""
    found = context.cached(given, name)
    match = WITH_VERSION.fullmatch(name)
    if found is None and match is not None:
        base = context.cached(given, match["name"])
        if base is None:
            raise UnknownModel(f"no cached model is called {match['name']}", hint="foundry cache list")
        found = context.store(given).find(f"{base.name}:{int(match['version'])}")
        if found is None:
            raise UnknownModel(
                f"{base.name} has no version {match['version']} on this disk",
                hint=f"foundry model versions {match['name']}",
            )
    if found is None:
        known = context.catalog(given).find(name) is not None
        message = f"{name} is not cached" if known else f"no cached model is called {name}"
        raise UnknownModel(message, hint="foundry cache list")
    return found


@click.command("versions")
@click.argument("name", metavar="MODEL")
@context.json_option
def versions(name: str, as_json: bool) -> None:
    """Show the versions of a model on this disk: which one the name means, where each is from, what is pinned."""
    given = context.settings()
    store = context.store(given)
    asked = required(given, name)
    manifests = store.manifests()
    by_alias = asked.alias.lower() == name.strip().lower()
    shown = [m for m in manifests if m.name == asked.name or (by_alias and m.alias == asked.alias)]
    current = {m.id for m in store.current()}
    pinned = refs.pinned(manifests, refs.read(store.refs))
    if as_json:
        rows = [{"id": m.id, "alias": m.alias, "version": m.version, "current": m.id in current,
                 "pinned": m.id in pinned, "createdAt": m.created_at, "source": m.source, "commit": m.commit,
                 "sizeBytes": m.size_bytes, "license": m.license, "templateSha256": m.chat_template_sha256}
                for m in shown]  # fmt: skip
        output.document({"versions": rows})
        return
    cells = [[m.id, "pinned" if m.id in pinned else "current" if m.id in current else "", m.created_at[:16],
              format_bytes(m.size_bytes), (m.commit or "")[:12], m.source] for m in shown]  # fmt: skip
    output.table(("Model ID", "State", "Since", "Size", "Commit", "Source"), cells)


@click.command("pin")
@click.argument("name", metavar="MODEL[@VERSION]")
@context.json_option
def pin(name: str, as_json: bool) -> None:
    """Let a name mean one version until `model unpin`, whatever is downloaded or updated."""
    given = context.settings()
    pinned = refs.pin(context.store(given), required(given, name))
    if as_json:
        output.document({"id": pinned.id, "alias": pinned.alias, "pinned": True})
    else:
        output.data(f"{pinned.alias} is pinned to {pinned.id}")


@click.command("unpin")
@click.argument("name", metavar="MODEL")
@context.json_option
def unpin(name: str, as_json: bool) -> None:
    """Let updates and downloads move a name again."""
    given = context.settings()
    manifest = required(given, name)
    was = refs.unpin(context.store(given), manifest.name)
    if as_json:
        output.document({"id": manifest.id, "alias": manifest.alias, "pinned": False, "wasPinned": was is not None})
    elif was is None:
        output.data(f"{manifest.name} was not pinned")
    else:
        output.data(f"{was.alias} is no longer pinned; it means {was.id} until an update")


@click.command("rollback")
@click.argument("name", metavar="MODEL")
@context.json_option
def rollback(name: str, as_json: bool) -> None:
    """Go back to the version before. Nothing is downloaded or removed; an update goes forward again."""
    given = context.settings()
    left, now = refs.rollback(context.store(given), required(given, name).name)
    if as_json:
        output.document({"id": now.id, "alias": now.alias, "previous": left.id})
        return
    output.data(f"{now.alias} means {now.id} again, and no longer {left.id}")
    output.note(f"A model that is loaded stays as it is until it is loaded again; to keep: foundry model pin {now.id}")


@click.command("update")
@click.argument("name", metavar="[MODEL]", required=False)
@click.option("--check", is_flag=True, help="Only tell what changed at the source; download nothing.")
@context.json_option
def update(name: str | None, check: bool, as_json: bool) -> None:
    """Ask the source what changed, and download the new version beside the old one; all models, or one."""
    import asyncio

    given = context.settings()
    store = context.store(given)
    chosen = [required(given, name)] if name else store.current()
    held = refs.pinned(store.manifests(), refs.read(store.refs))
    documents: list[dict[str, Any]] = []
    failed: list[FoundryError] = []
    for manifest in chosen:
        try:
            document = asyncio.run(_update(given, manifest, check, manifest.id in held))
        except FoundryError as exc:
            failed.append(exc)
            document = _document(manifest, "failed") | {"error": exc.message}
        documents.append(document)
        if not as_json:
            _show(document)
    if as_json:
        output.document({"models": documents})
    elif not chosen:
        output.data("No models cached on device")
    if failed:
        raise failed[0]


async def _update(given: Settings, manifest: Manifest, check: bool, held: bool) -> dict[str, Any]:
    from localfoundry.cli.progress import PullProgress
    from localfoundry.store import update as updating

    entry = context.catalog(given).find(manifest.name)
    source = entry[1].source if entry and entry[1] else None
    look = functools.partial(_template_of, given) if check or held else None  # else the file itself will tell
    upstream = await updating.ask(manifest, settings=given, catalog_source=source, template_of=look)
    if upstream.state != "changed":
        return _document(manifest, upstream.state, upstream.changes)
    if held:
        return _document(manifest, "pinned", upstream.changes)
    if check:
        return _document(manifest, "available", upstream.changes) | _unfetched(upstream)
    for note in upstream.plan.notes if upstream.plan else ():
        output.note(note)
    with PullProgress() as progress:
        made, found = await updating.carry_out(context.store(given), upstream, progress, offline=given.offline)
    return _document(manifest, "same" if made.id == manifest.id else "updated", found) | {"newId": made.id}


async def _template_of(given: Settings, plan: PullPlan) -> str | None:
    """The sum of the chat template that a plan would bring, read by range; None where it cannot be told."""
    from localfoundry.sources.remote import read_remote

    try:
        template = (await read_remote(plan, given))[0].chat_template
    except FoundryError:
        return None
    return hashlib.sha256(template.encode()).hexdigest() if template else None


def _unfetched(upstream: Upstream) -> dict[str, Any]:
    size = upstream.plan.size_bytes if upstream.plan else None
    return {"sizeBytes": size, "templateRead": upstream.template_read}


def _document(manifest: Manifest, state: str, changes: tuple[Change, ...] = ()) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "alias": manifest.alias,
        "source": manifest.source,
        "state": state,
        "changes": [msgspec.to_builtins(c) for c in changes],
    }


def _show(document: dict[str, Any]) -> None:
    words = {
        "same": "is what its source holds",
        "fixed": "comes from a source that never changes",
        "pinned": "is pinned and stays; at its source there is something new",
        "available": f"can be updated: foundry model update {document['alias']}",
        "updated": f"was updated: {document['alias']} means {document.get('newId')} now",
        "failed": f"could not be checked: {document.get('error')}",
    }
    output.data(f"{document['id']} {words[document['state']]}")
    for change in document["changes"]:
        subject = f" {change['subject']}" if change["subject"] else ""
        old, new = change["old"] or "nothing", change["new"] or "nothing"
        if change["what"] == "size":
            old, new = format_bytes(int(old)), format_bytes(int(new))
        output.data(f"    {change['what']}{subject}: {old} -> {new}")
    if document["state"] == "available" and not any(c["what"] == "template" for c in document["changes"]):
        unchanged = document["templateRead"]
        output.data(f"    chat template: {'the same' if unchanged else 'known once it is downloaded'}")


def refuse_pinned(given: Settings, manifest: Manifest) -> None:
    """Raise UsageError where a person pinned this version."""
    store = context.store(given)
    if manifest.id in refs.pinned(store.manifests(), refs.read(store.refs)):
        raise UsageError(f"{manifest.id} is pinned", hint=f"foundry model unpin {manifest.name}")

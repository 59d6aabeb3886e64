"""`foundry cache du`: whose the bytes are."""

from __future__ import annotations

import click

from localfoundry.cli import context, output
from localfoundry.units import format_bytes


@click.command("du")
@context.json_option
def du(as_json: bool) -> None:
    """Account for the bytes on this disk: what removing a model frees, what models share, what can be cleaned."""
    from localfoundry.store import space

    found = space.measure(context.store(context.settings()))
    if as_json:
        models = [{"id": a.manifest.id, "alias": a.manifest.alias, "exclusiveBytes": a.exclusive_bytes,
                   "sharedBytes": a.shared_bytes, "missingBytes": a.missing_bytes} for a in found.accounts]  # fmt: skip
        output.document({"models": models, "blobBytes": found.blob_bytes, "partialBytes": found.partial_bytes,
                         "unreferencedBytes": found.unreferenced_bytes, "leftoverBytes": found.leftover_bytes,
                         "totalBytes": found.total_bytes, "freeBytes": found.free_bytes})  # fmt: skip
        return
    cells = [[a.manifest.id, format_bytes(a.exclusive_bytes), format_bytes(a.shared_bytes) if a.shared_bytes else "",
              f"{format_bytes(a.missing_bytes)} missing" if a.missing_bytes else ""]
             for a in sorted(found.accounts, key=lambda a: -a.exclusive_bytes)]  # fmt: skip
    if cells:
        output.table(("Model ID", "Own", "Shared", ""), cells)
    output.data(f"In all:               {format_bytes(found.total_bytes)}")
    output.data(f"Unfinished downloads: {format_bytes(found.partial_bytes)}")
    output.data(f"Used by no model:     {format_bytes(found.unreferenced_bytes + found.leftover_bytes)}")
    output.data(f"Free on the disk:     {format_bytes(found.free_bytes)}")

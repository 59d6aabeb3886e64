"""`foundry model search`: the catalog, and Hugging Face where there is a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import click
import msgspec

from localfoundry.catalog import filters
from localfoundry.cli import context, output
from localfoundry.cli.models import print_rows, rows
from localfoundry.config import Settings
from localfoundry.errors import SourceError

if TYPE_CHECKING:
    from localfoundry.sources.search import HubModel


@click.command("search")
@click.argument("text")
@click.option("--gguf", "wanted", flag_value="gguf", help="On the hub: only repositories with GGUF files.")
@click.option("--onnx", "wanted", flag_value="onnx", help="On the hub: only repositories with ONNX files.")
@click.option("--sort", type=click.Choice(["downloads", "date"]), default="downloads", show_default=True,
              help="Order of the hub's results.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most hub results.")
@click.option("--local", is_flag=True, help="Only the built-in catalog.")
@context.json_option
@context.uncollected()
def search_models(text: str, wanted: str | None, sort: str, limit: int, local: bool, as_json: bool) -> None:
    """Search the catalog, and Hugging Face where there is a network."""
    given = context.settings()
    matching = filters.search(context.catalog(given).models, text)
    here = rows(matching, context.store(given).current(), every_variant=False)
    hub, problem = ([], None) if local else _on_the_hub(given, text, wanted, sort, limit)
    if as_json:
        hub_document = [msgspec.to_builtins(h) for h in hub]
        reason = problem.message if problem else None
        output.document({"models": [row.document() for row in here], "hub": hub_document, "hubError": reason})
        return
    if here:
        print_rows(here)
    else:
        output.note(f"nothing in the catalog matches {text!r}")
    if hub:
        output.data("\nOn the hub (foundry model download hf:REPOSITORY):")
        cells = [[h.repo, str(h.downloads), h.license or "unknown", (h.updated_at or "")[:10]] for h in hub]
        output.table(("Repository", "Downloads", "License", "Updated"), cells)
    if problem is not None:
        output.note(f"the hub was not searched: {problem.message}")


def _on_the_hub(
    given: Settings, text: str, wanted: str | None, sort: str, limit: int
) -> tuple[list[HubModel], SourceError | None]:
    """What the hub finds, or why it was not asked."""
    import asyncio

    from localfoundry.sources.search import search_hub

    fmt = cast(Literal["gguf", "onnx"] | None, wanted)
    order = cast(Literal["downloads", "date"], sort)
    try:
        return asyncio.run(search_hub(text, fmt=fmt, sort=order, limit=limit, offline=given.offline)), None
    except SourceError as exc:
        return [], exc

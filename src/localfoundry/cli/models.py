"""`foundry model list`, `search` and `info`: what exists, what is here, what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from localfoundry import engines
from localfoundry.catalog import filters
from localfoundry.catalog.model import Model, Variant
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from localfoundry.store.manifest import Manifest

_COLUMNS = ("Alias", "Device", "Task", "File Size", "License", "Model ID", "Cached")


class Row:
    """One line of the list: a variant, and the cached version of it if there is one."""

    def __init__(self, model: Model, variant: Variant, manifest: Manifest | None) -> None:
        self.model = model
        self.variant = variant
        self.manifest = manifest

    @property
    def id(self) -> str:
        return self.manifest.id if self.manifest else self.variant.id

    @property
    def size_bytes(self) -> int | None:
        return self.manifest.size_bytes if self.manifest else self.variant.size_bytes

    @property
    def license(self) -> str:
        own = self.manifest.license if self.manifest else None
        return own or self.variant.license or self.model.license or "unknown"

    def cells(self, first: bool) -> list[str]:
        alias = self.model.alias if first else ""
        tasks = ", ".join(self.model.tasks)
        size, cached = format_bytes(self.size_bytes), "yes" if self.manifest else ""
        return [alias, self.variant.device, tasks, size, self.license, self.id, cached]

    def document(self) -> dict[str, Any]:
        variant = self.variant
        return {
            "alias": self.model.alias,
            "id": self.id,
            "device": variant.device,
            "executionProvider": variant.execution_provider,
            "tasks": list(self.model.tasks),
            "format": variant.format,
            "quantization": self.manifest.quantization if self.manifest else variant.quantization,
            "fileSizeBytes": self.size_bytes,
            "license": None if self.license == "unknown" else self.license,
            "contextLength": self.model.context_length,
            "parameters": self.model.parameters,
            "source": self.manifest.source if self.manifest else variant.source,
            "cached": self.manifest is not None,
            "runnable": variant.format in engines.runnable_formats(),
        }


def rows(models: Sequence[Model], manifests: Sequence[Manifest], every_variant: bool) -> list[Row]:
    """Lines for the models in their order, of each the preferred variant first."""
    newest = {m.name: m for m in sorted(manifests, key=lambda m: m.version)}
    formats = engines.runnable_formats()
    found = []
    for model in models:
        first = filters.preferred_variant(model, formats)
        others = [v for v in model.variants if v is not first and (every_variant or v.format in formats)]
        found += [Row(model, v, newest.pop(v.name, None)) for v in ([first] if first else []) + others]
    return found


def own_models(manifests: Sequence[Manifest], known: set[str]) -> list[Model]:
    """What was pulled or imported and is in no catalog, as models of one variant."""
    return [
        Model(
            alias=m.alias, tasks=m.tasks, license=m.license, parameters=m.parameters, architecture=m.architecture,
            variants=(Variant(name=m.name, version=m.version, format=m.format, source=m.source, license=m.license,
                              quantization=m.quantization, size_bytes=m.size_bytes, context_length=m.context_length),),
        )
        for m in {m.name: m for m in manifests}.values()
        if m.name not in known
    ]  # fmt: skip


@click.command("list")
@click.option("--filter", "filter_texts", multiple=True, metavar="KEY=VALUE",
              help="device, provider, task or alias; `!` before the value negates, an alias ends in `*`.")  # fmt: skip
@click.option("--task", "--type", "task", help="Only models for this task: chat, code, reasoning, embeddings…")
@click.option("--device", help="Only variants for this device: CPU, GPU, NPU.")
@click.option("--license", help="Only variants under this licence.")
@click.option("--max-size", help="Only variants of at most this file size, for example 4GB.")
@click.option("--cached", is_flag=True, help="Only what is on this disk.")
@click.option("--available", is_flag=True, help="Only what can be downloaded and is not here yet.")
@click.option("--running", is_flag=True, help="Only what is loaded in the service.")
@click.option("--variants", is_flag=True, help="Every variant, also those that no engine here runs.")
@click.option("--guide", is_flag=True, help="Categories, which model for which task, and what hardware they want.")
@context.json_option
def list_models(
    filter_texts: tuple[str, ...], task: str | None, device: str | None, license: str | None, max_size: str | None,
    cached: bool, available: bool, running: bool, variants: bool, guide: bool, as_json: bool,
) -> None:  # fmt: skip
    """List the models that can be run here."""
    if guide:
        from localfoundry.cli.guide import show

        show(as_json)
        return
    given = context.settings()
    found = _selected(given, filter_texts, task, device, license, _size(max_size), variants)
    if cached:
        found = [row for row in found if row.manifest]
    if available:
        found = [row for row in found if not row.manifest and row.variant.source]
    if running:
        loaded = _loaded(given)
        found = [row for row in found if row.id in loaded]
    if as_json:
        output.document({"variants" if variants else "models": [row.document() for row in found]})
        return
    _print(found)


def _selected(
    given: Settings, filter_texts: Sequence[str], task: str | None, device: str | None, license: str | None,
    max_size: int | None, variants: bool,
) -> list[Row]:  # fmt: skip
    catalog = context.catalog(given)
    manifests = context.store(given).current()
    known = {v.name for m in catalog.models for v in m.variants}
    every = [*catalog.models, *own_models(manifests, known)]
    parsed = [filters.parse_filter(text) for text in filter_texts]
    chosen = filters.select(every, parsed, task=task, device=device, license=license, max_size_bytes=max_size)
    return rows(chosen, manifests, variants)


def _size(text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--max-size") from None


def _loaded(given: Settings) -> set[str]:
    from localfoundry import instance

    if instance.running(given) is None:
        return set()
    models = context.with_service(given, lambda client: client.get("/openai/loadedmodels"))
    return set(models)


def _print(found: list[Row]) -> None:
    if not found:
        output.note("no model passes these filters")
        return
    lines, last = [], None
    for row in found:
        lines.append(row.cells(row.model.alias != last))
        last = row.model.alias
    output.table(_COLUMNS, lines)


@click.command("search")
@click.argument("text")
@click.option("--gguf", "wanted", flag_value="gguf", help="On the hub: only repositories with GGUF files.")
@click.option("--onnx", "wanted", flag_value="onnx", help="On the hub: only repositories with ONNX files.")
@click.option("--sort", type=click.Choice(["downloads", "date"]), default="downloads", show_default=True,
              help="Order of the hub's results.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most hub results.")
@click.option("--local", is_flag=True, help="Only the built-in catalog.")
@context.json_option
def search_models(text: str, wanted: str | None, sort: str, limit: int, local: bool, as_json: bool) -> None:
    """Search the catalog, and Hugging Face where there is a network."""
    import asyncio
    from typing import Literal, cast

    from localfoundry.errors import SourceError
    from localfoundry.sources.search import search_hub

    given = context.settings()
    matching = filters.search(context.catalog(given).models, text)
    here = rows(matching, context.store(given).current(), every_variant=False)
    hub, problem = [], None
    if not local:
        fmt = cast(Literal["gguf", "onnx"] | None, wanted)
        order = cast(Literal["downloads", "date"], sort)
        try:
            hub = asyncio.run(search_hub(text, fmt=fmt, sort=order, limit=limit, offline=given.offline))
        except SourceError as exc:
            problem = exc
    if as_json:
        import msgspec

        hub_document = [msgspec.to_builtins(h) for h in hub]
        reason = problem.message if problem else None
        output.document({"models": [row.document() for row in here], "hub": hub_document, "hubError": reason})
        return
    if here:
        _print(here)
    else:
        output.note(f"nothing in the catalog matches {text!r}")
    if hub:
        output.data("\nOn the hub (foundry model download hf:REPOSITORY):")
        cells = [[h.repo, str(h.downloads), h.license or "unknown", (h.updated_at or "")[:10]] for h in hub]
        output.table(("Repository", "Downloads", "License", "Updated"), cells)
    if problem is not None:
        output.note(f"the hub was not searched: {problem.message}")


@click.command("info")
@click.argument("name", metavar="MODEL")
@click.option("--license", "only_license", is_flag=True, help="Only the licence.")
@click.option("--remote", is_flag=True, help="Read the header where the model comes from, without downloading it.")
@click.option("--explain", is_flag=True, help="Show what the memory of a load is made of, term by term.")
@context.json_option
def model_info(name: str, only_license: bool, remote: bool, explain: bool, as_json: bool) -> None:
    """Show what is known of a model. What is not known is said to be unknown.

    MODEL may also be hf:ORG/REPO[:QUANT], a file or a folder: then its header is read, on the hub by range requests.
    """
    from localfoundry.cli import fit, header
    from localfoundry.cli.info import describe, show

    given = context.settings()
    if remote or (context.cached(given, name) is None and header.is_reference(given, name)):
        describe, show = header.describe, header.show
    info = describe(given, name)
    if only_license:
        output.data(f"{info.get('alias', name)}: {info['license'] or 'unknown'}")
    elif as_json:
        output.document(info)
    elif explain:
        fit.explain(name, info["memory"])
    else:
        show(info)

"""`foundry model list` and `info`: what exists, what is here, what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from localfoundry import engines
from localfoundry.catalog import filters
from localfoundry.catalog.model import Model, Variant
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from localfoundry.advice.glance import Glance
    from localfoundry.cli.prospects import Outlook
    from localfoundry.store.manifest import Manifest

_COLUMNS = ("Alias", "Device", "Task", "File Size", "License", "Model ID", "Cached")


class Row:
    """One line of the list: a variant, the cached version of it if there is one, and what it would mean here."""

    __slots__ = ("glance", "manifest", "model", "variant")

    def __init__(self, model: Model, variant: Variant, manifest: Manifest | None) -> None:
        self.model = model
        self.variant = variant
        self.manifest = manifest
        self.glance: Glance | None = None

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

    def effective_variant(self) -> Variant:
        """The variant with what is known better of the version that is here."""
        own = self.manifest
        if own is None:
            return self.variant
        return msgspec.structs.replace(
            self.variant, size_bytes=own.size_bytes, quantization=own.quantization, sha256=own.files[0].sha256,
            context_length=own.context_length or self.variant.context_length,
        )  # fmt: skip

    def cells(self, first: bool) -> list[str]:
        model, variant = self.model, self.variant
        alias, tasks = model.alias if first else "", ", ".join(model.tasks)
        if self.manifest is None:  # as nearly all of a large catalog
            size, terms = format_bytes(variant.size_bytes), variant.license or model.license or "unknown"
            return [alias, variant.device, tasks, size, terms, variant.id, ""]
        return [alias, variant.device, tasks, format_bytes(self.size_bytes), self.license, self.id, "yes"]

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
@click.option("--fits", is_flag=True, help="Only what fits this machine's memory now.")
@click.option("--ctx", type=context.TOKENS, help="Fit and speed with this context, for example 8k or 32768.")
@click.option("--sort", "order", type=click.Choice(["speed", "size", "memory", "name"]),
              help="Fastest, smallest or alphabetically first; what is not known comes last.")  # fmt: skip
@click.option("--guide", is_flag=True, help="Categories, which model for which task, and what hardware they want.")
@context.json_option
@context.uncollected()
def list_models(
    filter_texts: tuple[str, ...], task: str | None, device: str | None, license: str | None, max_size: str | None,
    cached: bool, available: bool, running: bool, variants: bool, fits: bool, ctx: int | None, order: str | None,
    guide: bool, as_json: bool,
) -> None:  # fmt: skip
    """List the models that can be run here.

    With --fits, --ctx or --sort each line also says what a load would take of memory, whether that fits, and how fast
    the model would answer on this machine.
    """
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
    outlook = None
    if fits or ctx or order:
        found, outlook = _assessed(given, found, ctx, fits, order)
    if as_json:
        documents = [row.document() | (outlook.document(row) if outlook else {}) for row in found]
        output.document({"variants" if variants else "models": documents})
        return
    print_rows(found)


def _assessed(
    given: Settings, found: list[Row], tokens: int | None, fitting: bool, order: str | None
) -> tuple[list[Row], Outlook]:
    from localfoundry.cli import prospects

    here = [row.manifest for row in found if row.manifest is not None]
    outlook = prospects.Outlook(given, tokens, here)
    found = outlook.look(found, fitting=fitting)
    return (prospects.ordered(found, cast(prospects.Order, order)) if order else found), outlook


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


def print_rows(found: list[Row]) -> None:
    if not found:
        output.note("no model passes these filters")
        return
    lines, last = [], None
    for row in found:
        lines.append(row.cells(row.model.alias != last))
        last = row.model.alias
    if found[0].glance is None:
        output.table(_COLUMNS, lines)
        return
    from localfoundry.cli import prospects

    for line, figures in zip(lines, prospects.words(found), strict=True):
        line += figures
    output.table((*_COLUMNS, *prospects.COLUMNS), lines)


@click.command("info")
@click.argument("name", metavar="MODEL")
@click.option("--license", "only_license", is_flag=True, help="Only the licence.")
@click.option("--remote", is_flag=True, help="Read the header where the model comes from, without downloading it.")
@click.option("--explain", is_flag=True, help="Show what memory and speed are made of, term by term.")
@context.json_option
def model_info(name: str, only_license: bool, remote: bool, explain: bool, as_json: bool) -> None:
    """Show what is known of a model. What is not known is said to be unknown.

    MODEL may also be hf:ORG/REPO[:QUANT], a file or a folder: then its header is read, on the hub by range requests.
    """
    from localfoundry.cli import fit, header, speed
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
        speed.explain(name, info["speed"])
    else:
        show(info)

"""What `foundry model info` says: catalog facts, cached versions, and what loads take of memory."""

from __future__ import annotations

from typing import Any

import msgspec

from localfoundry import engines
from localfoundry.catalog.model import Model
from localfoundry.cli import context, engine_choice, engine_fit, fit, output, speed
from localfoundry.config import Settings, model_defaults
from localfoundry.formats.template import TemplateCheck
from localfoundry.store.adopted import Adoption, state_of
from localfoundry.store.manifest import Manifest, Recipe
from localfoundry.units import format_bytes


def describe(given: Settings, name: str) -> dict[str, Any]:
    """Everything known under a name. Raises UnknownModel."""
    manifest = context.cached(given, name)
    entry = context.catalog(given).find(name)
    if entry is None and manifest is None:
        entry = context.catalog(given).require(name)
    model = entry[0] if entry else None
    alias = model.alias if model else (manifest.alias if manifest else name)
    versions = [m for m in context.store(given).manifests() if m.alias == alias]
    newest = manifest or (versions[-1] if versions else None)
    shape = (newest.architecture if newest else None) or (model.architecture if model else None)
    template, check = _template(given, newest)
    memory, rates = _figures(given, newest, model)
    return {
        "alias": alias,
        "names": list(model.names) if model else [],
        "sourceRepo": model.source_repo if model else None,
        "publisher": model.publisher if model else None,
        "license": (newest.license if newest else None) or (model.license if model else None),
        "tasks": list(model.tasks if model else newest.tasks if newest else ()),
        "parameters": (newest.parameters if newest else None) or (model.parameters if model else None),
        "contextLength": (newest.context_length if newest else None) or (model.context_length if model else None),
        "architecture": msgspec.to_builtins(shape) if shape else None,
        "variants": _variants(model),
        "cached": [_version(given, m) for m in versions],
        "chatTemplate": template,
        "template": None if check is None else msgspec.to_builtins(check) | {"words": check.words()},
        "tuned": engine_choice.tuned_words(given, newest),
        "engines": engine_choice.describe(given, newest),
        "memory": memory,
        "speed": rates,
        "chosen": _chosen(given, alias, newest),
    }


def _figures(given: Settings, manifest: Manifest | None, model: Model | None) -> tuple[dict[str, Any] | None, Any]:
    """Memory and speed in the engine that would really run it."""
    other = engine_fit.running(given, manifest)
    if other is not None and manifest is not None:
        memory = engine_fit.describe_memory(given, manifest, other)
        return memory, engine_fit.describe_speed(given, manifest, other)
    known = engine_fit.of_catalog(given, model) if manifest is None and model is not None else None
    if known is not None:
        return known
    memory = fit.describe(given, manifest, model)
    return memory, speed.describe(given, fit.shape_of(given, manifest, model), memory, manifest)


def _chosen(given: Settings, alias: str, manifest: Manifest | None) -> dict[str, Any]:
    """What the settings hold for this model."""
    names = (alias, manifest.name, manifest.id) if manifest else (alias,)
    return model_defaults.by_key(model_defaults.chosen(given.models, names))


def _variants(model: Model | None) -> list[dict[str, Any]]:
    formats = engines.runnable_formats()
    return [
        msgspec.to_builtins(v) | {"id": v.id, "runnable": v.format in formats, "size_bytes": v.size_bytes}
        for v in (model.variants if model else ())
    ]


def _version(given: Settings, manifest: Manifest) -> dict[str, Any]:
    adoption = msgspec.to_builtins(state_of(context.store(given), manifest))
    return {
        "id": manifest.id,
        "sizeBytes": manifest.size_bytes,
        "adoption": adoption,
        **msgspec.to_builtins(manifest),
    }


def _template(given: Settings, manifest: Manifest | None) -> tuple[str | None, TemplateCheck | None]:
    """The template in the model's own file, and what trying it shows; tried now where the version is older than that.

    None where there is no file yet, none in it, or where its owner has removed it.
    """
    if manifest is None or manifest.format != "gguf":
        return None, manifest.template if manifest else None
    from localfoundry.formats.gguf import read_gguf
    from localfoundry.formats.summary import of_gguf_file

    store = context.store(given)
    adoption = state_of(store, manifest)
    if adoption is not None and adoption.state == "gone":
        return None, manifest.template
    path = store.main_file(manifest)
    if manifest.template is not None:
        return read_gguf(path).chat_template, manifest.template
    summary = of_gguf_file(path)
    return summary.chat_template, summary.template


def show(info: dict[str, Any]) -> None:
    """The same for reading."""

    def line(label: str, value: object) -> None:
        output.data(f"{label + ':':<14} {value if value not in (None, '', []) else 'unknown'}")

    line("Alias", info["alias"])
    if info["names"]:
        line("Also called", ", ".join(info["names"]))
    line("Source", info["sourceRepo"])
    line("Publisher", info["publisher"])
    line("License", info["license"])
    line("Tasks", ", ".join(info["tasks"]))
    line("Parameters", f"{info['parameters']:,}" if info["parameters"] else None)
    line("Context", f"{info['contextLength']} tokens" if info["contextLength"] else None)
    if info["chosen"]:
        line("Settings", ", ".join(f"{key} {value}" for key, value in info["chosen"].items()))
    shape = info["architecture"]
    if shape:
        line(
            "Shape", f"{shape['layers']} layers, {shape['attention_heads']} heads, {shape['kv_heads']} key-value heads"
        )
    _show_variants(info["variants"])
    _show_cached(info["cached"])
    _show_template(info)
    if info["tuned"]:
        line("Tuned", info["tuned"])
    engine_choice.show(info["engines"])
    fit.show(info["memory"])
    speed.show(info["speed"])


def _show_template(info: dict[str, Any]) -> None:
    from localfoundry.cli.header import show_template

    if info["cached"]:
        show_template(info["template"])
    else:
        output.data("Template:      unknown until it is downloaded (--remote reads it from afar)")


def _show_variants(variants: list[dict[str, Any]]) -> None:
    if not variants:
        return
    output.data("Variants:")
    cells = [
        [v["id"], v["format"], v.get("quantization") or "unknown", format_bytes(v["size_bytes"]),
         v.get("source") or "not public", "" if v["runnable"] else "no engine here"]
        for v in variants
    ]  # fmt: skip
    output.table(("Model ID", "Format", "Quantization", "File Size", "Source", "Note"), cells, prefix="    ")


def _show_cached(versions: list[dict[str, Any]]) -> None:
    if not versions:
        output.data("Cached:        no")
        return
    output.data("Cached:")
    for version in versions:
        output.data(f"    {version['id']}  {format_bytes(version['sizeBytes'])}  from {version['source']}")
        if version["adoption"]:
            adoption = msgspec.convert(version["adoption"], Adoption)
            more = f" and {len(adoption.paths) - 1} more" if len(adoption.paths) > 1 else ""
            output.data(f"        {adoption.words}: {adoption.paths[0]}{more}")
        if "recipe" in version:
            from localfoundry.cli.made import recipe_words

            output.data(f"        made here: {recipe_words(msgspec.convert(version['recipe'], Recipe))}")
        for left in version.get("adopted", {}).get("untranslated", ()):
            output.data(f"        not translated: {left}")
        for file in version["files"]:
            output.data(f"        {file['name']}  {format_bytes(file['size_bytes'])}  sha256 {file['sha256']}")

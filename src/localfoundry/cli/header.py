"""`foundry model info` for what is not in the store: the header of a file here, or of one on the hub."""

from __future__ import annotations

from typing import Any

import msgspec

from localfoundry.cli import context, fit, output, speed
from localfoundry.config import Settings
from localfoundry.formats.summary import HeaderSummary
from localfoundry.sources import reference
from localfoundry.sources.plan import PullPlan
from localfoundry.units import format_bytes


def is_reference(given: Settings, name: str) -> bool:
    """Whether `name` says where a model is, rather than which of the known ones is meant."""
    if context.catalog(given).find(name) is not None:
        return False
    return name.startswith(("hf:", "hf-quantized:", "pypi:")) or "/" in name or reference.looks_local(name)


def describe(given: Settings, name: str) -> dict[str, Any]:
    """What the header says, and where it was read.

    Raises UnknownModel, NotAModel, SourceError (offline, gated, no ranges).
    """
    parsed = None if context.catalog(given).find(name) else reference.parse(name)
    if isinstance(parsed, reference.LocalReference):
        return _local(given, parsed)
    import asyncio

    from localfoundry.sources.remote import read_remote

    async def work() -> tuple[PullPlan, HeaderSummary, int]:
        plan = await _plan(given, name, parsed)
        for note in plan.notes:
            output.note(note)
        return plan, *await read_remote(plan, given)

    plan, summary, fetched = asyncio.run(work())
    facts = {"source": plan.source, "fileSizeBytes": plan.size_bytes, "fetchedBytes": fetched}
    said = {"license": plan.license or summary.license, "quantization": summary.quantization or plan.quantization}
    return facts | _document(summary) | said | _estimates(given, summary)


async def _plan(given: Settings, name: str, parsed: reference.Reference | None) -> PullPlan:
    from localfoundry.cli.pull import plan_for
    from localfoundry.sources import huggingface

    if isinstance(parsed, reference.HubReference):
        return await huggingface.plan(parsed, given, to_run=False)
    return await plan_for(given, name)


def _local(given: Settings, parsed: reference.LocalReference) -> dict[str, Any]:
    from localfoundry.formats.summary import of_path

    path = parsed.path
    summary = of_path(path)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    facts = {"source": f"file:{path}", "fileSizeBytes": size, "fetchedBytes": 0}
    return facts | _document(summary) | _estimates(given, summary)


def _estimates(given: Settings, summary: HeaderSummary) -> dict[str, Any]:
    memory = fit.of_shape(given, summary.shape)
    return {"memory": memory, "speed": speed.describe(given, summary.shape, memory)}


def _document(summary: HeaderSummary) -> dict[str, Any]:
    check = summary.template
    return {
        "format": summary.format,
        "architectureName": summary.architecture,
        "parameters": summary.parameters,
        "layers": summary.layers,
        "attentionHeads": summary.attention_heads,
        "kvHeads": summary.kv_heads,
        "contextLength": summary.context_length,
        "vocabSize": summary.vocab_size,
        "quantization": summary.quantization,
        "tensorTypes": summary.tensor_types,
        "weightBytes": summary.weight_bytes,
        "tokenizer": summary.tokenizer,
        "license": summary.license,
        "chatTemplate": summary.chat_template,
        "template": None if check is None else msgspec.to_builtins(check) | {"words": check.words()},
    }


def show(info: dict[str, Any]) -> None:
    """The same for reading. What the header does not say is called unknown."""

    def line(label: str, value: object) -> None:
        output.data(f"{label + ':':<14} {value if value not in (None, '', {}) else 'unknown'}")

    line("Source", info["source"])
    line("Format", info["format"])
    line("Architecture", info["architectureName"])
    line("Parameters", f"{info['parameters']:,}" if info["parameters"] else None)
    line("Layers", info["layers"])
    heads, kv_heads = info["attentionHeads"], info["kvHeads"]
    line("Heads", f"{heads} attention, {kv_heads or 'unknown'} key-value" if heads else None)
    line("Context", f"{info['contextLength']} tokens" if info["contextLength"] else None)
    line("Vocabulary", info["vocabSize"])
    line("Quantization", info["quantization"])
    line("Tensors", ", ".join(f"{number} {kind}" for kind, number in info["tensorTypes"].items()))
    line("Tokenizer", info["tokenizer"])
    line("License", info["license"])
    line("File size", format_bytes(info["fileSizeBytes"]))
    show_template(info["template"])
    fit.show(info["memory"])
    speed.show(info["speed"])
    if info["fetchedBytes"]:
        output.note(f"read {format_bytes(info['fetchedBytes'])} of it, nothing was downloaded")


def show_template(template: dict[str, Any] | None) -> None:
    """The line on the chat template, and its warnings below."""
    output.data(f"{'Template:':<14} {template['words'] if template else 'not tried: this model does not chat'}")
    for warning in template.get("warnings", ()) if template else ():
        output.data(f"    warning: {warning}")

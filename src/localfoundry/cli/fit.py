"""What loads of a model take: the table of contexts in `model info`, and its terms (`--explain`)."""

from __future__ import annotations

from typing import Any

from localfoundry import fit
from localfoundry.catalog.model import Model
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.engines import llama_fit
from localfoundry.formats.shape import ModelShape
from localfoundry.service import memory
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes

_MOST = 2**22  # tokens of a table, whatever a header says
_WORDS = {"weights": "weights", "rearranged": "weights, rearranged", "stale": "pages left over", "kv_cache": "KV cache",
          "state": "recurrent state", "compute": "compute buffers", "output": "logits", "projector": "projector",
          "process": "process", "checkpoints": "checkpoints"}  # fmt: skip


def describe(given: Settings, manifest: Manifest | None, model: Model | None) -> dict[str, Any] | None:
    """The estimate for a cached version, else from the catalog's facts of its first GGUF; None: unknown."""
    shape = shape_of(given, manifest, model)
    if manifest is None:
        return of_shape(given, shape, model.tasks if model else ())
    chosen = given.defaults_for((manifest.alias, manifest.name, manifest.id))
    parallel = chosen.parallel or given.parallel
    return of_shape(given, shape, manifest.tasks, parallel, chosen.engine_arguments)


def shape_of(given: Settings, manifest: Manifest | None, model: Model | None) -> ModelShape | None:
    """Of a cached version, else from the catalog's facts of the first GGUF; None: unknown."""
    if manifest is not None:
        if manifest.format != "gguf":
            return None
        return llama_fit.shape_of(manifest, context.store(given).main_file(manifest))
    if model is None or model.architecture is None:
        return None
    variant = next((v for v in model.variants if v.format == "gguf"), None)
    size, quantization = (variant.size_bytes, variant.quantization) if variant else (None, None)
    return fit.of_catalog(model.architecture, size, quantization)


def of_shape(
    given: Settings,
    shape: ModelShape | None,
    tasks: tuple[str, ...] = ("chat",),
    parallel: int = 0,
    arguments: tuple[str, ...] = (),
) -> dict[str, Any] | None:
    """Rows by context, up to what the model was trained for, and the terms of the context that a load would get."""
    if shape is None:
        return None
    most = min(shape.context_length or fit.DEFAULT_CONTEXT, _MOST)
    usual = min(most, fit.DEFAULT_CONTEXT)
    load = llama_fit.load_of(tasks, usual, parallel or given.parallel, arguments)
    budget = memory.look([], given.memory_limit_bytes, given.memory_reserve_bytes)
    room = max(budget.limit - budget.others - budget.reserve, 0)
    largest = fit.largest_context(shape, load, room, most)
    rows = fit.table(shape, load, most, room)
    default = min(usual, largest) if largest and largest >= fit.SMALLEST_CONTEXT else usual
    shown = fit.memory(shape, llama_fit.load_of(tasks, default, load.parallel, arguments))
    return {
        "source": shown.interval.source,
        "exactShape": shape.exact,
        "parallel": load.parallel,
        "roomBytes": room,
        "reserveBytes": budget.reserve,
        "defaultContext": default,
        "largestContext": largest,
        "contexts": [_row(row) for row in rows],
        "terms": [
            {
                "purpose": t.purpose,
                "bytes": t.size_bytes,
                "lowBytes": int(t.low),
                "highBytes": int(t.high),
                "words": t.words,
            }
            for t in shown.terms
        ],
        "totalBytes": shown.total,
        "lowBytes": int(shown.interval.low),
        "highBytes": int(shown.interval.high),
    }


def _row(row: fit.ContextRow) -> dict[str, Any]:
    interval = row.memory.interval
    return {
        "context": row.context,
        "weightsBytes": row.memory["weights"] + row.memory["rearranged"] + row.memory["stale"],
        "kvCacheBytes": row.memory["kv_cache"] + row.memory["state"],
        "totalBytes": row.memory.total,
        "lowBytes": int(interval.low),
        "highBytes": int(interval.high),
        "fits": row.fits,
    }


def show(estimate: dict[str, Any] | None) -> None:
    """The table, and which context a load would get."""
    if estimate is None:
        output.data("Memory:        unknown (needs the model's shape)")
        return
    start = "predicted" if estimate["exactShape"] else "predicted from the catalog's facts, not from the file"
    where = f" in {estimate['engine']}" if "engine" in estimate else ""
    output.data(
        f"Memory{where} ({start}, {estimate['parallel']} requests at once, {format_bytes(estimate['roomBytes'])} free):"
    )
    cells = [
        [str(row["context"]), format_bytes(row["weightsBytes"]), format_bytes(row["kvCacheBytes"]),
         format_bytes(row["totalBytes"]), f"{format_bytes(row['lowBytes'])} to {format_bytes(row['highBytes'])}",
         _fits(row["fits"])]
        for row in estimate["contexts"]
    ]  # fmt: skip
    output.table(("Context", "Weights", "KV cache", "Together", "90 % interval", "Fits"), cells, prefix="    ")
    output.data(f"    A load gets {estimate['defaultContext']} tokens unless it is told otherwise (--ctx).")


def explain(name: str, estimate: dict[str, Any] | None) -> None:
    """The terms of the usual load, how they come about, and how sure each is."""
    if estimate is None:
        output.data(f"{name}: memory unknown, since its shape is not known")
        return
    low, high = format_bytes(estimate["lowBytes"]), format_bytes(estimate["highBytes"])
    output.data(f"{name} with {estimate['defaultContext']} tokens for {estimate['parallel']} requests at once: "
                f"{format_bytes(estimate['totalBytes'])} ({low} to {high}), {estimate['source']}")  # fmt: skip
    cells = [
        [_WORDS[term["purpose"]], format_bytes(term["bytes"]), _sure(term),
         term["words"]]
        for term in estimate["terms"]
    ]  # fmt: skip
    output.table(("Term", "Bytes", "Sure to", "How it comes about"), cells)
    if not estimate["exactShape"]:
        output.note("from the catalog's facts; the file's own header says it exactly: add --remote, or download it")


def _sure(term: dict[str, Any]) -> str:
    low, high = (term[end] / term["bytes"] - 1 for end in ("lowBytes", "highBytes"))
    if high < 0.005:
        return "exact"
    return f"± {high:.0%}" if high + low > -0.01 else f"{low:+.0%} {high:+.0%}"


def _fits(fits: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[fits]

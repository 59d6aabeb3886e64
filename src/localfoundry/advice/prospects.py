"""What one variant of a model would mean on one machine, in full; or which fact is missing to say so.

On top of the first look (`glance.py`): how far the context could go, how fast a prompt is read, how long a load takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from localfoundry import fit
from localfoundry.advice.glance import Case, Fit, Glances, shape_of
from localfoundry.advice.machine import Means
from localfoundry.catalog.model import Model, Variant
from localfoundry.fit.calibration import Calibration
from localfoundry.fit.interval import Interval
from localfoundry.formats.shape import ModelShape

__all__ = ["PROMPT", "Fit", "Prospect", "in_full", "prospect"]

PROMPT = 512  # tokens of the prompt that prefill and first token are told for
_MOST = 2**22  # tokens, whatever a header says


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What one variant of a model would mean on one machine, with `context` tokens and one stream.

    Computed on the processor's cores. A figure that is None is not known, and `why_unknown` says which fact is missing.
    """

    alias: str
    variant: str  # its id, name:version
    format: str
    quantization: str | None
    tasks: tuple[str, ...]
    license: str | None
    disk_bytes: int | None  # of its files
    context: int  # tokens that the figures below are for
    trained_context: int | None
    largest_context: int | None  # that fits in what the machine could give; None: not known
    memory: Interval | None  # bytes of a load
    fit: Fit
    decode: Interval | None  # tokens/s of one stream
    prefill: Interval | None  # tokens/s, prompt of 512 tokens
    first_token_s: Interval | None  # for a prompt of 512 tokens
    load_s: Interval | None
    why_unknown: str = ""


def prospect(
    model: Model,
    variant: Variant,
    machine: Means,
    *,
    context: int | None = None,
    calibration: Calibration | None = None,
    shape: ModelShape | None = None,
) -> Prospect:
    """`context` None: as a load would choose it. `shape`: of the version that is here; else the catalog's facts count.

    Raises nothing. For many variants of one machine make `Glances` once, and use `in_full`.
    """
    return in_full(Glances(machine, context, calibration), model, variant, shape)


def in_full(glances: Glances, model: Model, variant: Variant, shape: ModelShape | None = None) -> Prospect:
    """The glance at a variant with everything else that can be told of it."""
    seen, known, machine = glances.of(model, variant, shape), shape or shape_of(model, variant), glances.machine
    largest: int | None = None
    prefill = first = loading = None
    if seen.memory is not None and known is not None:
        case = glances.case(model, variant, known, seen.trained)
        if machine.memory_bytes is not None:
            most = min(seen.trained or seen.context, _MOST)
            largest = fit.largest_context(known, case.load, machine.memory_bytes, most)
        if machine.processor is not None:
            prefill, first, loading = _times(glances, case, machine.processor)
    return Prospect(
        alias=model.alias, variant=variant.id, format=variant.format, quantization=variant.quantization,
        tasks=model.tasks, license=variant.license or model.license, disk_bytes=variant.size_bytes,
        context=seen.context, trained_context=seen.trained, largest_context=largest, memory=seen.memory, fit=seen.fit,
        decode=seen.decode, prefill=prefill, first_token_s=first, load_s=loading, why_unknown=seen.why,
    )  # fmt: skip


def _times(glances: Glances, case: Case, processor: fit.Processor) -> tuple[Interval, Interval, Interval]:
    """Prefill in tokens/s, and seconds to the first token and of a load."""
    shape, load, memory, subject = case
    prompt = min(PROMPT, load.context)
    prefill = glances.corrected("prefill", fit.prefill(shape, load, processor, prompt).interval, subject)
    first = Interval(prompt / prefill.value, prompt / prefill.high, prompt / prefill.low, prefill.source)
    loading = fit.load_time(shape, load, processor, memory["rearranged"]).interval
    return prefill, first, glances.corrected("load", loading, subject)

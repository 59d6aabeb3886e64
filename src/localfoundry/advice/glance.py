"""The first look at many variants on one machine: memory, fit and decode rate.

What takes longer (how far the context could go, prompt, load) is `prospects.py`'s, for the few that a person looks at.
The fit is decided as the service decides it: by the estimate, corrected where this very model was loaded here. What is
not known stays unknown. Where the size of the file is an assumption, a fit is only said if its whole interval agrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

import msgspec

from localfoundry import fit
from localfoundry.advice.machine import Means
from localfoundry.catalog.model import Model, Variant
from localfoundry.engines import llama_fit, other_fit, runnable_formats
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.engines.other_fit import Facts, OtherEstimate
from localfoundry.fit.calibration import Calibration, Quantity, Subject
from localfoundry.fit.decoder import Decoders
from localfoundry.fit.interval import Interval
from localfoundry.fit.speed import kernel
from localfoundry.formats.shape import ModelShape

# Not now: it would if other programs gave memory back. Never: not even then, or not trained for so long a context.
Fit = Literal["fits", "not now", "never", "unknown"]

_WRITES_NOTHING = frozenset({"embeddings", "rerank"})


class Glance(msgspec.Struct, frozen=True, gc=False):
    """`context` tokens, bytes of a load with them, tokens/s of one stream; None is not known, `why` names the fact."""

    context: int
    trained: int | None
    fit: Fit
    memory: Interval | None = None
    decode: Interval | None = None
    why: str = ""


class Estimate(Protocol):
    """What is predicted of one file. Rates need a processor."""

    @property
    def sized(self) -> bool: ...
    @property
    def kernel(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    def memory(self, load: fit.Load) -> Interval: ...
    def largest_context(self, load: fit.Load, room_bytes: int, most: int) -> int | None: ...
    def decode(self, load: fit.Load) -> Interval: ...
    def prefill(self, load: fit.Load, tokens: int) -> Interval: ...


class Case(NamedTuple):
    """A file as it would be loaded; `subject`: whose measurements count for it."""

    estimate: Estimate
    load: fit.Load
    subject: Subject


class InAnother(NamedTuple):
    """A variant that is here in another engine than llama.cpp: its name, and facts of the file that it would get."""

    engine: str
    facts: Facts


class Glances:
    """Of one machine, with one wish for the context; None leaves it to each model, as a load does."""

    def __init__(
        self, machine: Means, context: int | None = None, calibration: Calibration | None = None,
        others: Mapping[str, InAnother] | None = None,
    ) -> None:  # fmt: skip
        """`calibration` is llama.cpp's; `others`: by id the variants here that another engine would run."""
        self.machine = machine
        self._others = others or {}
        self._context = context
        known = calibration is not None and not calibration.empty
        self._calibration = calibration if known and machine.measured_as is not None else None
        self._formats = runnable_formats()
        self._loads: dict[tuple[bool, int], fit.Load] = {}
        self._decoders = Decoders(machine.processor, machine.isa)
        loads = (llama_fit.load_of(tasks, fit.DEFAULT_CONTEXT, 1) for tasks in (("embeddings",), ("chat",)))
        self._reading, self._writing = (replace(load, isa=machine.isa) for load in loads)

    def too_large(self, variant: Variant) -> bool:
        """Whether the file alone is larger than the memory: a quick and certain no."""
        return exceeds(variant.size_bytes, self.machine)

    def of(self, model: Model, variant: Variant, shape: ModelShape | None = None) -> Glance:
        """`shape`: of the version that is here; else the catalog's facts count. Raises nothing."""
        trained = self.trained(model, variant, shape)
        if variant.format not in self._formats:
            why = f"no engine here runs {variant.format} files"
            return Glance(self._usual(trained), trained, "unknown", why=why)
        estimate = self._estimate(model, variant, shape)
        if estimate is None:
            never: Fit = "never" if self.too_large(variant) else "unknown"
            why = "its layers and widths are not in the catalog"
            return Glance(self._usual(trained), trained, never, why=why)
        load, needed = self._loaded(estimate, model, trained)
        decode = None if self.machine.processor is None or load.embeddings else estimate.decode(load)
        if self._calibration is not None:
            subject = self._subject(estimate, variant)  # of another engine: one of which nothing is known
            needed = self.corrected("memory", needed, subject)
            decode = decode and self.corrected("decode", decode, subject)
        fits, why = _fit(needed, estimate.sized, self.machine)
        if self._context is not None and trained is not None and self._context > trained:
            fits, why = "never", ""
        if self.machine.processor is None:
            why = why or "the number of cores or the bandwidth of the memory"
        return Glance(load.context, trained, fits, needed, decode, why)

    def trained(self, model: Model, variant: Variant, shape: ModelShape | None = None) -> int | None:
        """Tokens; None: not known."""
        return variant.context_length or (shape.context_length if shape else None) or model.context_length

    def case(self, model: Model, variant: Variant, shape: ModelShape | None, trained: int | None) -> Case | None:
        """How the variant would be loaded; None where neither a `shape` of its own nor the catalog's facts tell."""
        estimate = self._estimate(model, variant, shape)
        if estimate is None:
            return None
        load, _ = self._loaded(estimate, model, trained)
        return Case(estimate, load, self._subject(estimate, variant))

    def corrected(self, quantity: Quantity, predicted: Interval, subject: Subject) -> Interval:
        """What was learned here is of this machine; memory only from this very model, as the service does it."""
        if self._calibration is None or (quantity == "memory" and not subject.model):
            return predicted
        found = self._calibration.corrected(quantity, predicted, subject)
        return found if quantity != "memory" or found.source == "measured here" else predicted

    def engine(self, variant: Variant) -> str | None:
        """The name of what would run it, as far as its format or `others` tell."""
        known = self._others.get(variant.id) if self._others else None
        if known is not None:
            return known.engine
        if variant.format in other_fit.KNOWN:
            return variant.format
        return LlamaCpp.name if variant.format in LlamaCpp.formats else None

    def _estimate(self, model: Model, variant: Variant, shape: ModelShape | None) -> Estimate | None:
        known = self._others.get(variant.id) if self._others else None
        if known is not None:
            return OtherEstimate(known.engine, known.facts, self.machine.processor)
        if variant.format in other_fit.KNOWN:
            return self._of_catalog(model, variant)
        if shape is not None:
            return _Exact(shape, self.machine.processor)
        if model.architecture is None:
            return None
        return self._decoders.file(model.architecture, variant.size_bytes, variant.quantization)

    def _of_catalog(self, model: Model, variant: Variant) -> OtherEstimate | None:
        """Of a folder that is not here, in the engine of its format."""
        if model.architecture is None:
            return None
        facts = other_fit.of_architecture(model.architecture, variant.size_bytes, variant.quantization)
        return OtherEstimate(variant.format, facts, self.machine.processor)

    def _loaded(self, estimate: Estimate, model: Model, trained: int | None) -> tuple[fit.Load, Interval]:
        """With the context asked for, else the usual one or what memory leaves; and the bytes of that load."""
        writes, free = _WRITES_NOTHING.isdisjoint(model.tasks), self.machine.free_bytes
        load = self._load(writes, self._usual(trained))
        memory = estimate.memory(load)
        if self._context is None and free is not None and memory.value > free:
            load = self._load(writes, self._affordable(estimate, load))
            memory = estimate.memory(load)
        return load, memory

    def _subject(self, estimate: Estimate, variant: Variant) -> Subject:
        if isinstance(estimate, OtherEstimate):
            return Subject(estimate.kernel, "", estimate.kernel, "")
        return Subject("", self.machine.measured_as or "", estimate.kernel, variant.sha256 or "")

    def _usual(self, trained: int | None) -> int:
        return self._context or min(trained or fit.DEFAULT_CONTEXT, fit.DEFAULT_CONTEXT)

    def _load(self, writes: bool, context: int) -> fit.Load:
        found = self._loads.get((writes, context))
        if found is None:
            base = self._writing if writes else self._reading
            found = self._loads[writes, context] = replace(base, context=context)
        return found

    def _affordable(self, estimate: Estimate, load: fit.Load) -> int:
        """The largest context up to the usual one that is free now, or else could be; the usual one if none is."""
        for room in (self.machine.free_bytes, self.machine.memory_bytes):
            if room is None or estimate.weight_bytes > room:
                continue
            largest = estimate.largest_context(load, room, load.context)
            if largest is not None and largest >= fit.SMALLEST_CONTEXT:
                return largest
        return load.context


class _Exact:
    """The estimate from a header, of one file by itself."""

    def __init__(self, shape: ModelShape, processor: fit.Processor | None) -> None:
        self._shape, self._processor = shape, processor
        self.sized, self.kernel, self.weight_bytes = shape.sized, kernel(shape), shape.weight_bytes

    def memory(self, load: fit.Load) -> Interval:
        return fit.memory(self._shape, load).interval

    def largest_context(self, load: fit.Load, room_bytes: int, most: int) -> int | None:
        return fit.largest_context(self._shape, load, room_bytes, most)

    def decode(self, load: fit.Load) -> Interval:
        assert self._processor is not None
        return fit.decode(self._shape, load, self._processor).interval

    def prefill(self, load: fit.Load, tokens: int) -> Interval:
        assert self._processor is not None
        return fit.prefill(self._shape, load, self._processor, tokens).interval


def exceeds(size_bytes: int | None, machine: Means) -> bool:
    return size_bytes is not None and machine.memory_bytes is not None and size_bytes > machine.memory_bytes


def shape_of(model: Model, variant: Variant) -> ModelShape | None:
    """From the catalog's facts; None where it has none."""
    if model.architecture is None:
        return None
    return fit.of_catalog(model.architecture, variant.size_bytes, variant.quantization)


def _fit(needed: Interval, sized: bool, machine: Means) -> tuple[Fit, str]:
    """Whether it fits, and what is missing to say so."""
    low, high = (needed.value, needed.value) if sized else (needed.low, needed.high)
    if machine.memory_bytes is None:
        return "unknown", "how much memory the machine has"
    if low > machine.memory_bytes:
        return "never", ""
    if machine.free_bytes is None:
        return "unknown", "how much memory is free"
    if high <= machine.free_bytes:
        return "fits", ""
    if low > machine.free_bytes and high <= machine.memory_bytes:
        return "not now", ""
    return "unknown", "the size of its file"

"""The first look at many variants on one machine: memory, fit and decode rate, each distinct shape computed once.

What takes longer (how far the context could go, prompt, load) is `prospects.py`'s, for the few that a person looks at.
The fit is decided as the service decides it: by the estimate, corrected where this very model was loaded here. What is
not known stays unknown. Where the size of the file is an assumption, a fit is only said if its whole interval agrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from localfoundry import fit
from localfoundry.advice.machine import Means
from localfoundry.catalog.model import Architecture, Model, Variant
from localfoundry.engines import llama_fit, runnable_formats
from localfoundry.fit.calibration import Calibration, Quantity, Subject
from localfoundry.fit.interval import Interval
from localfoundry.fit.memory import buffers, with_buffers
from localfoundry.fit.speed import kernel
from localfoundry.formats.shape import ModelShape

# Not now: it would if other programs gave memory back. Never: not even then, or not trained for so long a context.
Fit = Literal["fits", "not now", "never", "unknown"]

_WRITES_NOTHING = frozenset({"embeddings", "rerank"})


@dataclass(frozen=True, slots=True)
class Glance:
    """`context` tokens, bytes of a load with them, tokens/s of one stream; None is not known, `why` names the fact."""

    context: int
    trained: int | None
    fit: Fit
    memory: Interval | None = None
    decode: Interval | None = None
    why: str = ""


class Case(NamedTuple):
    """A shape as it would be loaded; `subject` is whose measurements count for it."""

    shape: ModelShape
    load: fit.Load
    memory: fit.Memory
    subject: Subject


class Glances:
    """Of one machine, with one wish for the context; None leaves it to each model, as a load does."""

    def __init__(self, machine: Means, context: int | None = None, calibration: Calibration | None = None) -> None:
        self.machine = machine
        self._context = context
        self._calibration = calibration if machine.measured_as is not None else None
        self._formats = runnable_formats()
        self._seen: dict[tuple[object, ...], Glance] = {}
        self._loads: dict[tuple[bool, int], fit.Load] = {}
        self._buffers: dict[tuple[Architecture | None, int, bool], tuple[fit.Term, ...]] = {}
        loads = (llama_fit.load_of(tasks, fit.DEFAULT_CONTEXT, 1) for tasks in (("embeddings",), ("chat",)))
        self._reading, self._writing = (replace(load, isa=machine.isa) for load in loads)

    def too_large(self, variant: Variant) -> bool:
        """Whether the file alone is larger than the memory: a quick and certain no."""
        return exceeds(variant.size_bytes, self.machine)

    def of(self, model: Model, variant: Variant, shape: ModelShape | None = None) -> Glance:
        """`shape`: of the version that is here; else the catalog's facts count. Raises nothing."""
        if shape is not None:
            return self._computed(model, variant, shape)
        writes = _WRITES_NOTHING.isdisjoint(model.tasks)
        sha256 = variant.sha256 if self._calibration is not None else None
        key = (model.architecture, _rounded(variant.size_bytes), variant.quantization, variant.context_length,
                   variant.format, writes, sha256)  # fmt: skip
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = self._computed(model, variant, shape_of(model, variant))
        return found

    def case(self, model: Model, variant: Variant, shape: ModelShape, trained: int | None) -> Case:
        """How the variant would be loaded: with the context asked for, else the usual one or what memory leaves."""
        usual = self._context or min(trained or fit.DEFAULT_CONTEXT, fit.DEFAULT_CONTEXT)
        load = self._load(_WRITES_NOTHING.isdisjoint(model.tasks), usual)
        memory = self._memory(model.architecture, shape, load)
        if self._context is None and self.machine.free_bytes is not None and memory.total > self.machine.free_bytes:
            load = replace(load, context=self._affordable(shape, load))
            memory = fit.memory(shape, load)
        subject = Subject("", self.machine.measured_as or "", kernel(shape), variant.sha256 or "")
        return Case(shape, load, memory, subject)

    def corrected(self, quantity: Quantity, predicted: Interval, subject: Subject) -> Interval:
        """What was learned here is of this machine; memory only from this very model, as the service does it."""
        if self._calibration is None or (quantity == "memory" and not subject.model):
            return predicted
        found = self._calibration.corrected(quantity, predicted, subject)
        return found if quantity != "memory" or found.source == "measured here" else predicted

    def _load(self, writes: bool, context: int) -> fit.Load:
        found = self._loads.get((writes, context))
        if found is None:
            base = self._writing if writes else self._reading
            found = self._loads[writes, context] = replace(base, context=context)
        return found

    def _memory(self, architecture: Architecture | None, shape: ModelShape, load: fit.Load) -> fit.Memory:
        """Buffers are the same for all quantizations of an architecture, as long as the catalog's facts are used."""
        if shape.exact:
            return fit.memory(shape, load)
        key = architecture, load.context, load.embeddings
        rest = self._buffers.get(key)
        if rest is None:
            rest = self._buffers[key] = buffers(shape, load)
        return with_buffers(shape, load, rest)

    def _affordable(self, shape: ModelShape, load: fit.Load) -> int:
        """The largest context up to the usual one that is free now, or else could be; the usual one if none is."""
        for room in (self.machine.free_bytes, self.machine.memory_bytes):
            if room is None or shape.weight_bytes > room:
                continue
            largest = fit.largest_context(shape, load, room, load.context)
            if largest is not None and largest >= fit.SMALLEST_CONTEXT:
                return largest
        return load.context

    def _computed(self, model: Model, variant: Variant, shape: ModelShape | None) -> Glance:
        trained = variant.context_length or (shape.context_length if shape else None) or model.context_length
        usual = self._context or min(trained or fit.DEFAULT_CONTEXT, fit.DEFAULT_CONTEXT)
        if variant.format not in self._formats:
            return Glance(usual, trained, "unknown", why=f"no engine here runs {variant.format} files")
        if shape is None:
            never: Fit = "never" if self.too_large(variant) else "unknown"
            return Glance(usual, trained, never, why="its layers and widths are not in the catalog")
        case = self.case(model, variant, shape, trained)
        needed = self.corrected("memory", case.memory.interval, case.subject)
        fits, why = _fit(needed, shape, self.machine)
        if self._context is not None and trained is not None and self._context > trained:
            fits, why = "never", ""
        if self.machine.processor is None:
            why = why or "the number of cores or the bandwidth of the memory"
        return Glance(case.load.context, trained, fits, needed, self._decode(case), why)

    def _decode(self, case: Case) -> Interval | None:
        """None also for what writes nothing: an embedding model, a reranker."""
        if self.machine.processor is None or case.load.embeddings:
            return None
        return self.corrected(
            "decode", fit.decode(case.shape, case.load, self.machine.processor).interval, case.subject
        )


def exceeds(size_bytes: int | None, machine: Means) -> bool:
    return size_bytes is not None and machine.memory_bytes is not None and size_bytes > machine.memory_bytes


def shape_of(model: Model, variant: Variant) -> ModelShape | None:
    """From the catalog's facts; None where it has none."""
    if model.architecture is None:
        return None
    return fit.of_catalog(model.architecture, _rounded(variant.size_bytes), variant.quantization)


def _rounded(size_bytes: int | None) -> int | None:
    """To 12 binary digits, by 0.025 % at most: fine-tunes of a model differ by less, and then are computed once.

    What a catalog's facts leave open of a load is 10 % and more.
    """
    if size_bytes is None:
        return None
    step = 1 << max(size_bytes.bit_length() - 12, 0)
    return (size_bytes + step // 2) // step * step


def _fit(needed: Interval, shape: ModelShape, machine: Means) -> tuple[Fit, str]:
    """Whether it fits, and what is missing to say so."""
    low, high = (needed.value, needed.value) if shape.sized else (needed.low, needed.high)
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

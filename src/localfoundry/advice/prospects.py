"""What one variant of a model would mean on one machine, in full; or which fact is missing to say so.

On top of the first look (`glance.py`): how far the context could go, how fast a prompt is read, how long a load takes.
Of 100,000 variants hardly one is looked at so closely: `outlined` computes that when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from localfoundry import fit
from localfoundry.advice.glance import Case, Fit, Glances, shape_of
from localfoundry.advice.machine import Means
from localfoundry.catalog.model import Model, Variant
from localfoundry.engines.other_fit import OtherEstimate
from localfoundry.fit.calibration import Calibration
from localfoundry.fit.interval import Interval
from localfoundry.formats.shape import ModelShape

__all__ = ["PROMPT", "Fit", "Prospect", "in_full", "outlined", "prospect"]

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
    found = outlined(glances, model, variant, shape)
    return Prospect(**{field.name: getattr(found, field.name) for field in fields(Prospect)})


def outlined(glances: Glances, model: Model, variant: Variant, shape: ModelShape | None = None) -> Prospect:
    """The same, of which all that a glance does not show is computed when somebody asks for it: for many variants."""
    return _Outlined(glances, model, variant, shape)


class _Outlined(Prospect):
    """A prospect some of whose slots stay empty: what would be in them is computed whenever it is read.

    Kept it would be 20 MB for 100,000 of them, of which few are read twice.
    """

    __slots__ = ("_glances", "_model", "_shape", "_variant")
    _glances: Glances
    _model: Model
    _shape: ModelShape | None
    _variant: Variant

    def __init__(self, glances: Glances, model: Model, variant: Variant, shape: ModelShape | None) -> None:
        seen, fill = glances.of(model, variant, shape), object.__setattr__
        fill(self, "_glances", glances)
        fill(self, "_model", model)
        fill(self, "_variant", variant)
        fill(self, "_shape", shape)
        fill(self, "alias", model.alias)
        fill(self, "format", variant.format)
        fill(self, "quantization", variant.quantization)
        fill(self, "tasks", model.tasks)
        fill(self, "license", variant.license or model.license)
        fill(self, "disk_bytes", variant.size_bytes)
        fill(self, "context", seen.context)
        fill(self, "trained_context", seen.trained)
        fill(self, "memory", seen.memory)
        fill(self, "fit", seen.fit)
        fill(self, "decode", seen.decode)
        fill(self, "why_unknown", seen.why)

    def __getattr__(self, name: str) -> Any:
        """Called for empty slots only."""
        if name == "variant":
            return self._variant.id
        if name not in _FIGURES:
            raise AttributeError(name)
        case = None
        if self.memory is not None:
            case = self._glances.case(self._model, self._variant, self._shape, self.trained_context)
        return None if case is None else _FIGURES[name](self, case)

    def _largest(self, case: Case) -> int | None:
        room = self._glances.machine.memory_bytes
        most = min(self.trained_context or self.context, _MOST)
        return None if room is None else case.estimate.largest_context(case.load, room, most)

    def _prefill(self, case: Case) -> Interval | None:
        if self._glances.machine.processor is None:
            return None
        prompt = min(PROMPT, case.load.context)
        return self._glances.corrected("prefill", case.estimate.prefill(case.load, prompt), case.subject)

    def _first_token(self, case: Case) -> Interval | None:
        found, prompt = self._prefill(case), min(PROMPT, case.load.context)
        return found and Interval(prompt / found.value, prompt / found.high, prompt / found.low, found.source)

    def _load_time(self, case: Case) -> Interval | None:
        if isinstance(case.estimate, OtherEstimate):
            return case.estimate.load_s()
        shape, processor = self._shape or shape_of(self._model, self._variant), self._glances.machine.processor
        if shape is None or processor is None:
            return None
        copied = fit.memory(shape, case.load)["rearranged"]
        loading = fit.load_time(shape, case.load, processor, copied).interval
        return self._glances.corrected("load", loading, case.subject)


_FIGURES: dict[str, Callable[[_Outlined, Case], object]] = {
    "largest_context": _Outlined._largest, "prefill": _Outlined._prefill, "first_token_s": _Outlined._first_token,
    "load_s": _Outlined._load_time,
}  # fmt: skip

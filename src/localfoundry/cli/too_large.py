"""Before a download: can this machine ever run it? A warning with ways out, never a refusal.

Judged by the shortest context, and by the whole memory that models may have here: other programs can be closed. What is
not known of the model gives no warning.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import msgspec

from localfoundry import fit
from localfoundry.advice.machine import Means
from localfoundry.advice.prospects import Prospect, prospect
from localfoundry.advice.ways_out import Advice, room_of
from localfoundry.catalog.model import Model, Variant
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.fit.context import SMALLEST_CONTEXT
from localfoundry.formats.shape import ModelShape
from localfoundry.service import memory
from localfoundry.service.alternatives import Alternatives
from localfoundry.service.planning import Planner
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.units import format_bytes


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Bytes: what a load with the shortest context needs, at least the file; and what it could have here at most."""

    name: str
    context: int
    need_bytes: int
    memory_bytes: int
    advice: Advice

    def show(self) -> None:
        output.note(
            f"{self.name} cannot run on this machine: it needs {format_bytes(self.need_bytes)} of memory with a "
            f"context of {self.context} tokens, and a model can have {format_bytes(self.memory_bytes)} at most."
        )
        for line in self.advice.lines():
            output.note(f"  {line}")

    def document(self) -> dict[str, object]:
        ways = [way.document() for way in self.advice.ways]
        return {"needBytes": self.need_bytes, "memoryBytes": self.memory_bytes, "waysOut": ways}


def too_large(given: Settings, plan: PullPlan) -> TooLarge | None:
    """What is to be said of a plan; None where it fits, or where that is not known. Blocking for a moment."""
    budget = memory.look([], given.memory_limit_bytes, given.memory_reserve_bytes)
    most = max(budget.limit - budget.reserve, 0)
    free = max(most - budget.others, 0)
    wanted = _prospect(given, plan, Means("this machine", most, free))
    if wanted.fit != "never":
        return None
    need = int(wanted.memory.value) if wanted.memory else wanted.disk_bytes or 0
    alternatives = Alternatives(context.catalog(given), Planner(context.store(given), given.home), given)
    return TooLarge(wanted.variant, wanted.context, need, most, alternatives.of_known(wanted, room_of(free)))


def _prospect(given: Settings, plan: PullPlan, means: Means) -> Prospect:
    """From the file where it is on this disk, else from the catalog's facts, else from the size alone."""
    entry = context.catalog(given).find(plan.name)
    model = entry[0] if entry else Model(plan.alias, plan.tasks, ())
    found = entry[1] if entry and entry[1] else Variant(plan.name, plan.version or 1, plan.format)
    variant = msgspec.structs.replace(found, size_bytes=_size(plan) or found.size_bytes)
    shape = _shape(plan)
    trained = (shape.context_length if shape else None) or variant.context_length or model.context_length
    return prospect(model, variant, means, context=min(SMALLEST_CONTEXT, trained or SMALLEST_CONTEXT), shape=shape)


def _shape(plan: PullPlan) -> ModelShape | None:
    local = plan.files[0].local if len(plan.files) == 1 else None
    return fit.of_file(local) if local is not None and plan.format == "gguf" else None


def _size(plan: PullPlan) -> int | None:
    """Of what is kept; None where the source does not tell, or of an archive's member."""
    sizes = [file.member.size_bytes if file.member else _file_size(file) for file in plan.files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _file_size(file: PlannedFile) -> int | None:
    with contextlib.suppress(OSError):
        return file.local.stat().st_size if file.local else file.size_bytes
    return None

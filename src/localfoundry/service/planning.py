"""How a model would be loaded: what a caller asks, what is chosen for the model, what the settings say, in that order.

The need of memory is what such a load took here before, or else what the engine's estimate predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from localfoundry import engines
from localfoundry.config import Settings
from localfoundry.errors import InvalidRequest
from localfoundry.service.decisions import LoadPlan, Resident
from localfoundry.service.learning import Learned
from localfoundry.service.ledger import Bytes
from localfoundry.service.loading import LoadedModel
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

DEFAULT_CONTEXT = 8192
SMALLEST_CONTEXT = 512  # that is chosen for a person; less is refused with the figures
_AHEAD = 2  # requests that an engine gets beyond those it answers at once, so that it never waits for the next

T = TypeVar("T")
_Kind = tuple[str, int, int, tuple[str, ...]]  # of a load: version, context, parallel requests, engine arguments


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a caller may ask of a load; None takes the setting. `retain` keeps the other models loaded."""

    retain: bool | None = None
    ttl_s: int | None = None
    context: int | None = None
    pinned: bool | None = None
    keep_state: bool | None = None


class Planner:
    """Plans of one service; it remembers what loads took, and over its end how far the estimate was off."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store = store
        self._measured: dict[_Kind, Bytes] = {}
        self._learned = Learned(home)

    def plan(
        self, manifest: Manifest, options: LoadOptions, settings: Settings, resident: Resident | None, room: int
    ) -> LoadPlan:
        """`room`: bytes that a load could have if everything else were unloaded. Raises InvalidRequest, NotRunnable."""
        chosen = settings.defaults_for((manifest.alias, manifest.name, manifest.id))
        parallel, arguments = chosen.parallel or settings.parallel, chosen.engine_arguments
        engine, file = engines.choose(manifest.format), self.store.main_file(manifest)
        largest = engine.largest_context(manifest, file, room, parallel, arguments)
        wanted = options.context or chosen.context or settings.context_length
        context, usual = _context(manifest, wanted, largest)
        need = self._measured.get((manifest.id, context, parallel, arguments))
        if need is None:
            predicted = engine.memory(manifest, file, context, parallel, arguments)
            need = self._learned.corrected(manifest, predicted)
        return LoadPlan(
            need=need,
            context=context,
            largest_context=largest,
            usual_context=usual,
            slots=parallel + _AHEAD,
            parallel=parallel,
            ttl_s=_first(options.ttl_s, chosen.ttl_s, settings.model_ttl_s),
            pinned=_first(options.pinned, resident.plan.pinned if resident else None, chosen.pinned, False),
            retain=_first(options.retain, settings.retain_models),
            engine_arguments=arguments,
            keep_state=_first(options.keep_state, chosen.keep_state, settings.keep_state),
        )

    def learn(self, model: LoadedModel, settings: Settings) -> None:
        """Keep how what the engine allocated compares with the estimate. Blocking."""
        self._learned.note(model, self.store.main_file(model.manifest), settings)

    def measure(self, model: LoadedModel) -> Bytes:
        """What a loaded model holds now; the most it ever held is remembered for loads of the same kind."""
        claim = model.measure()
        plan = model.resident.plan
        kind = model.id, plan.context, plan.parallel, plan.engine_arguments
        before = self._measured.get(kind, {})
        self._measured[kind] = {device: max(size, before.get(device, 0)) for device, size in claim.items()}
        return claim


def _context(manifest: Manifest, wanted: int, largest: int | None) -> tuple[int, int]:
    """Tokens to load with, and as many as there would be with memory enough.

    `wanted` 0 leaves the choice: what the model was trained for, at most 8,192, and less where only less fits
    (`largest`). Raises InvalidRequest for more than the model was trained for.
    """
    limit = manifest.context_length
    if wanted and limit and wanted > limit:
        raise InvalidRequest(
            f"a context of {wanted} tokens is more than {manifest.alias} was trained for: {limit}",
            hint=f"foundry model run {manifest.alias} --ctx {limit}",
            param="context",
        )
    usual = wanted or min(limit or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if wanted or largest is None or largest < SMALLEST_CONTEXT:
        return usual, usual
    return min(usual, largest), usual


def _first(*values: T | None) -> T:
    """The first that is chosen; the last one always is."""
    return next(value for value in values if value is not None)
